"""Limits of plausibility gates, by what useful candidates of a rehearsal looked like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tta_agent.core.evidence import Evidence
from tta_agent.core.protocols import Gate
from tta_agent.evaluation.decision import is_plausibility
from tta_agent.evaluation.rehearsed.table import RehearsedRow

USEFUL = 0.005  # gain in accuracy from which a candidate counts as useful
SOUND = ("adapted", "second")  # kinds of rows: what a deployment would propose, without injected failures
FEWEST = 20  # useful candidates below which the fixed numbers stand
BEYOND = 0.1  # of the range of the useful ones: scenarios do not hold the most extreme


def measured(gates: Mapping[str, Gate], evidence: Evidence) -> dict[str, float]:
    """Statistics of the plausibility gates that tell them, as `gate.option`."""
    return {
        f"{name}.{option}": float(value)
        for name, gate in gates.items()
        if is_plausibility(gate) and hasattr(gate, "measure")
        for option, value in gate.measure(evidence).items()
    }


def limits(rows: Sequence[RehearsedRow], gates: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Options by gate, within which all useful candidates lie; empty where there are too few.

    Args:
        gates: classes or instances by name; `bounds` says which options of them bound a statistic, and from where.
    """
    useful = [row for row in rows if row.kind in SOUND and row.gain > USEFUL and row.looks]
    if len(useful) < FEWEST:
        return {}
    found: dict[str, dict[str, float]] = {}
    for name, gate in gates.items():
        for option, side in getattr(gate, "bounds", {}).items():
            values = [row.looks[place] for row in useful if (place := f"{name}.{option}") in row.looks]
            if values:
                found.setdefault(name, {})[option] = _limit(values, side)
    return found


def _limit(values: Sequence[float], side: str) -> float:
    low, high = min(values), max(values)
    beyond = BEYOND * (high - low)
    return low - beyond if side == "low" else high + beyond
