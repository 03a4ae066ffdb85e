"""Whether evidence looks like anything that was rehearsed. Outside, a forest answers as if it knew."""

from __future__ import annotations

import numpy as np

from tta_agent.rehearsal.table import Table
from tta_agent.types import Array

NEIGHBOURS = 5
SHARE = 0.99  # of rehearsed rows, each against other families, that must count as inside
LEAST = 0.1  # of a number's weight: also what the forest hardly uses may show that a world is another one
BEYOND = 0.25  # of a number's range that it may lie beyond the rehearsed

# What must lie in the rehearsed range, whatever the neighbours say: these show a stream of another kind.
KEYS = (
    "disagreement",
    "confidence_serving",
    "spread_serving",
    "top_class_serving",
    "moved_means",
    "histograms",
)


class Support:
    """Distance to the nearest rehearsed evidence, numbers standardised and weighted.

    Args:
        table: what was rehearsed.
        weights: how much each number matters [F], summing to 1.
    """

    def __init__(self, table: Table, weights: Array) -> None:
        self._table = table
        self._centre = table.evidence.mean(0)
        self._scale = table.evidence.std(0) + 1e-6
        share = np.clip(weights * len(weights), LEAST, None)
        self._weight = np.sqrt(share / share.sum())
        self._points = self._place(table.evidence)
        self._low, self._high = table.evidence.min(0), table.evidence.max(0)
        self.limit = self._limit()

    def _place(self, evidence: Array) -> Array:
        return np.asarray((evidence - self._centre) / self._scale * self._weight)

    def _limit(self) -> float:
        found = np.full(len(self._table), np.nan)
        for family in self._table.families:
            mine, others = self._table.of_family(family), self._table.without(family)
            if others.sum() > NEIGHBOURS:
                found[mine] = _nearest(self._points[mine], self._points[others])
        return float(np.nanquantile(found, SHARE)) if not np.isnan(found).all() else 0.0

    def distance(self, evidence: Array) -> Array:
        """Of evidence [R, F]: mean distance to the nearest rehearsed rows [R], in units of the limit."""
        return _nearest(self._place(evidence), self._points) / max(self.limit, 1e-12)

    def outside(self, evidence: Array) -> str | None:
        """Why one world's evidence [F] is not supported, or None."""
        names = self._table.names
        if not np.isfinite(evidence).all():
            return f"{names[int(np.argmin(np.isfinite(evidence)))]} is not a finite number"
        span = (self._high - self._low) * BEYOND
        for name in KEYS:
            i = names.index(name) if name in names else -1
            if i >= 0 and not self._low[i] - span[i] <= evidence[i] <= self._high[i] + span[i]:
                return (
                    f"{name} is {evidence[i]:.3g}, rehearsed were {self._low[i]:.3g} to {self._high[i]:.3g}"
                )
        distance = float(self.distance(evidence[None])[0])
        if distance <= 1:
            return None
        i = self._furthest(evidence)
        return (
            f"no rehearsed world looks like this ({distance:.2g} times the limit); furthest out is {names[i]}: "
            f"{evidence[i]:.3g}, nearby worlds have {self._near(evidence)[i]:.3g}"
        )

    def _near(self, evidence: Array) -> Array:
        apart = np.linalg.norm(self._points - self._place(evidence), axis=1)
        return np.asarray(self._table.evidence[np.argsort(apart)[:NEIGHBOURS]].mean(0))

    def _furthest(self, evidence: Array) -> int:
        return int(np.argmax(np.abs(self._place(evidence) - self._place(self._near(evidence)))))


def _nearest(points: Array, among: Array) -> Array:
    square = (points**2).sum(1)[:, None] + (among**2).sum(1) - 2 * points @ among.T
    apart = np.sqrt(np.clip(square, 0, None))
    k = min(NEIGHBOURS, len(among))
    return np.asarray(np.sort(apart, axis=1)[:, :k].mean(1))
