"""Findings of a rehearsal in sentences, and names of its scenarios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tta_agent.core.types import Array
from tta_agent.evaluation.rehearsed.proof import ALPHA
from tta_agent.evaluation.rehearsed.table import RehearsedRow
from tta_agent.rehearsal.scenarios import CLEAN

ORDERS = {  # of arrival, for people
    "iid": "in any order", "correlated": "classes in runs", "label_shift": "rare and frequent classes",
    "unknown": "with unknown classes",
}  # fmt: skip
HARM = -0.005  # half a point: less than that is noise of the scenarios


def named(row: RehearsedRow) -> str:
    """Name of a scenario, for people."""
    shift = row.family if row.family == CLEAN else f"{row.family} {row.severity}"
    return f"{shift}, {ORDERS.get(row.structure, row.structure)}"


def adapted(rows: Sequence[RehearsedRow]) -> list[RehearsedRow]:
    """Rows of the scenarios in which the adapter did as intended, from the source."""
    return [row for row in rows if row.kind == "adapted"]


def cells(rows: Sequence[RehearsedRow]) -> dict[tuple[str, int], float]:
    """Mean gain of the adapted scenarios, by family and severity."""
    found: dict[tuple[str, int], list[float]] = {}
    for row in adapted(rows):
        found.setdefault((row.family, row.severity), []).append(row.gain)
    return {place: float(np.mean(gains)) for place, gains in found.items()}


def decisions(rows: Sequence[RehearsedRow], lower: Sequence[float]) -> dict[str, float]:
    """Share of harmful promotions among all scenarios, and share of promotions where there is much to gain."""
    gains, promoted = np.array([row.gain for row in rows]), np.array(lower, float) > 0
    return {
        "harmful": float((promoted & (gains < 0)).mean()),
        "worst": float(gains[promoted].min()) if promoted.any() else 0.0,
        "power_at_5_points": _share(promoted, gains >= 0.05),
        "power_at_3_points": _share(promoted, gains >= 0.03),
    }


def _share(promoted: Array, among: Array) -> float:
    return float(promoted[among].mean()) if among.any() else float("nan")


def findings(rows: Sequence[RehearsedRow], summary: Mapping[str, Any]) -> list[str]:
    """Sentences on a rehearsal, the most useful first."""
    gains = {
        family: [row.gain for row in adapted(rows) if row.family == family] for family in _families(rows)
    }
    mean = {family: 100 * float(np.mean(g)) for family, g in gains.items() if g}
    best, worst = max(mean, key=mean.__getitem__), min(mean, key=mean.__getitem__)
    every = np.array([row.gain for row in adapted(rows)])
    fit = summary["fit"]
    made = decisions(rows, fit["lower"])
    return [
        _clean(mean, len(gains.get(CLEAN, []))),
        f"Adapting helps most under {best} ({mean[best]:+.1f} points), least under {worst} ({mean[worst]:+.1f}).",
        f"Promoting always would have cost half a point or more in {(every < HARM).mean():.0%} of the {len(every)} "
        "scenarios in which the adapter did as intended.",
        f"Promoting by this rehearsal (each shift judged without having seen it) would harm {made['harmful']:.1%} of "
        f"all {len(rows)} scenarios. It would take {_taken(made, 5)} and {_taken(made, 3)}.",
        f"Its bound holds in {fit['coverage'][f'{ALPHA:g}']:.1%} of scenarios ({1 - ALPHA:.0%} wanted); its "
        f"predictions are {100 * fit['error']:.1f} points off on average.",
    ]  # fmt: skip


def _taken(made: Mapping[str, float], least: int) -> str:
    share = made[f"power_at_{least}_points"]
    of = f"those with {least} points or more to gain"
    return f"{share:.0%} of {of}" if share == share else f"none of {of}, as there are none"


def _clean(mean: Mapping[str, float], scenarios: int) -> str:
    if CLEAN not in mean:
        return "No scenario without a shift was played: give more time to learn what adapting costs there."
    gain, seen = mean[CLEAN], f"{scenarios} scenario{'s' * (scenarios != 1)}"
    if gain < 100 * HARM:
        return f"On clean data adapting costs {-gain:.1f} points (mean of {seen}): there, keep the source."
    return f"On clean data adapting changes little ({gain:+.1f} points, mean of {seen})."


def _families(rows: Sequence[RehearsedRow]) -> list[str]:
    return sorted({row.family for row in adapted(rows)})
