"""Classes that come in runs, told by the answers to successive batches.

Batches of independent records name the classes alike; where one class comes after the other, each batch holds a few,
and its statistics are those of a few. Two batches are compared by Pearson's test of homogeneity (chi-squared).
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from tta_agent.core.types import Array

LATEST = 8  # comparisons: a change of regime is in one of them
FAR = 1.0  # standard deviations, of their median; independent batches lie at -1 to 0, runs of 25 at 2 to 14


class ClassRuns:
    """Comparison of each batch with the one before."""

    def __init__(self) -> None:
        self._before: Array | None = None
        self._apart: deque[float] = deque(maxlen=LATEST)

    def observe(self, counts: Array) -> None:
        """Take in how often a batch's answers name each class, [C]."""
        if self._before is not None:
            self._apart.append(apart(self._before, counts))
        self._before = counts

    def found(self) -> bool:
        """Whether successive batches differ in their classes by more than chance."""
        return bool(self._apart) and statistics.median(self._apart) > FAR

    def state_dict(self) -> dict[str, Any]:
        """The latest counts, and how far batches lay apart."""
        before = None if self._before is None else self._before.tolist()
        return {"before": before, "apart": list(self._apart)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        before = state["before"]
        self._before = None if before is None else np.asarray(before)
        self._apart = deque(state["apart"], maxlen=LATEST)


def apart(one: Array, other: Array) -> float:
    """Chi-squared of two counts [C] above its mean, in standard deviations."""
    both, weight = one + other, math.sqrt(other.sum() / max(one.sum(), 1)) or 1.0
    seen = both > 0
    squares = (one * weight - other / weight)[seen] ** 2 / both[seen]
    degrees = max(int(seen.sum()) - 1, 1)
    return float(squares.sum() - degrees) / math.sqrt(2 * degrees)
