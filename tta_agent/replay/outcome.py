"""Comparison of policies over one recording: with the source, and with the best in hindsight.

The oracle takes in each window the best of the source, every policy's served graph and every policy's online
predictions. It knows all labels beforehand, so no policy can reach it, and the regret to it is never below zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

SCHEMA_VERSION = 1
FEW = 10  # labelled records of a window that cannot be anybody's worst
PER_POLICY = ("served", "online", "version")  # columns of a window that are a policy's own
Played: TypeAlias = Mapping[str, Any]  # what `replay.replay` returns


def compare(played: Mapping[str, Played], about: Mapping[str, Any], *, complete: bool) -> dict[str, Any]:
    """Compare policies, for scripts and for the page.

    Args:
        played: at least one policy, by name.
        about: facts about the replay (`recording`, `labels`), copied as they are.
        complete: False where some policies were not played to the end.

    Returns:
        `windows`: rows with `source` and `oracle` [W]; of each policy, `windows` has the columns `served`,
        `online`, `version` [W]. Accuracies are shares, 0 .. 1; None where nothing was labelled.
    """
    first = next(iter(played.values()))
    windows = [
        {**{name: value for name, value in row.items() if name not in PER_POLICY}, "oracle": _best(rows)}
        for row, *rows in zip(first["windows"], *(one["windows"] for one in played.values()), strict=True)
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "complete": complete,
        **about,
        "records": first["records"],
        "labelled": first["labelled"],
        "source_accuracy": first["source_accuracy"],
        "oracle_accuracy": _weighted(windows, "oracle"),
        "windows": windows,
        "domains": [
            {name: row[name] for name in ("domain", "records", "source")} for row in first["domains"]
        ],
        "policies": [_policy(name, one, windows) for name, one in played.items()],
    }


def _best(rows: Sequence[Mapping[str, Any]]) -> float | None:
    known = [row[who] for row in rows for who in ("source", "served", "online") if row[who] is not None]
    return max(known, default=None)


def _weighted(windows: Sequence[Mapping[str, Any]], who: str) -> float | None:
    told = [(row[who], row["labelled"]) for row in windows if row["labelled"]]
    return sum(share * count for share, count in told) / sum(n for _, n in told) if told else None


def _policy(name: str, one: Played, windows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    shared = ("windows", "domains", "records", "labelled", "source_accuracy")
    own = {key: value for key, value in one.items() if key not in shared}
    oracle = _weighted(windows, "oracle")
    served, source = one["served_accuracy"], one["source_accuracy"]
    return {
        "name": name,
        **own,
        "gain": None if served is None else served - source,
        "regret": None if served is None or oracle is None else max(oracle - served, 0.0),
        **_below(one["windows"]),
        "windows": {column: [row[column] for row in one["windows"]] for column in PER_POLICY},
        "domains": [{who: row[who] for who in ("served", "online")} for row in one["domains"]],
    }


def _below(windows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Deficit to the source on the same records: the worst window, and recorded seconds."""
    told = [row for row in windows if row["labelled"]]
    worst = max((row["source"] - row["served"] for row in told if row["labelled"] >= FEW), default=None)
    behind_s = sum(row["t_end"] - row["t"] for row in told if row["served"] < row["source"])
    return {
        "worst_window_below_source": None if worst is None else max(worst, 0.0),
        "time_below_source_s": round(behind_s, 3) if told else None,
    }
