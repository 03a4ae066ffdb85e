"""Support: whether evidence looks like rehearsed evidence. Outside, any learner answers as if it knew.

Three questions: is the evidence near rehearsed evidence, are its main numbers in the rehearsed range, and is the
candidate about as sure as candidates were in scenarios that they mended? The last one is for streams whose images
belong to no known class (clothes to a model of animals and cars): the source fails as it does under a corruption, the
adapted model looks sound, and only its lack of confidence tells them apart.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from tta_agent.core.types import Array
from tta_agent.evaluation.rehearsed.regress import smooth
from tta_agent.evaluation.rehearsed.table import EvidenceTable

JITTER = 0.01  # of the kernel
SHARE = 0.95  # of families, and of the rows of each against the other families, that must count as near
HONEST = ("adapted", "sibling", "second", "stale", "back")  # kinds that are no injected failures
BEYOND = 0.25  # of a number's range that it may lie beyond the rehearsed

# What must lie in the rehearsed range, whatever is near: these show a stream of another kind.
KEYS = (
    "disagreement",
    "confidence_serving",
    "spread_serving",
    "top_class_serving",
    "moved_means",
    "histograms",
)
SURE, UNSURE_SHARE = "atc_candidate", 0.02  # of rows that it mended, the share that may be refused
MENDED = 0.02  # a gain that counts as mended
# Of the serving model's accuracy on the anchor: below it, nothing says how sure a candidate should be.
KNOWS = 1 / 3


class Support:
    """Distance of evidence from rehearsed evidence.

    It is the posterior standard deviation of a Gaussian process in units of the prior's: 0 on rehearsed evidence, 1
    far from all of it.
    """

    def __init__(self, table: EvidenceTable) -> None:
        self._table = table
        self._centre, self._scale = table.evidence.mean(0), table.evidence.std(0) + 1e-6
        self._points = self._place(table.evidence)
        self._factor = _factor(self._points)
        self._low, self._high = table.evidence.min(0), table.evidence.max(0)
        self._sure = self._least_sure()
        self.limit = self._limit()

    def _place(self, evidence: Array) -> Array:
        return np.asarray((evidence - self._centre) / self._scale)

    def _least_sure(self) -> float:
        sure = self._sureness(self._table.evidence)
        mended = (self._table.gains > MENDED) & np.isfinite(sure)
        return float(np.quantile(sure[mended], UNSURE_SHARE)) if mended.any() else -np.inf

    def _sureness(self, evidence: Array) -> Array:
        """Share of records in which the candidate is sure [R]; infinite where it cannot be told: its temperature is
        fitted on the anchor, and says nothing of a candidate that has left the anchor far behind."""
        names = ("anchor_candidate", "anchor_serving", SURE)
        if not set(names) <= set(self._table.names):
            return np.full(len(evidence), np.inf)
        candidate, serving, sure = (evidence[:, self._table.names.index(name)] for name in names)
        return np.asarray(np.where(candidate >= KNOWS * serving, sure, np.inf))

    def _limit(self) -> float:
        """Usual distance of an unseen family: the quantile of the families' own quantiles, so that neither a few
        odd scenarios nor one odd family decide. Injected failures may be too far: nobody wants to promote those."""
        honest = np.array([row.kind in HONEST for row in self._table.rows])
        found = []
        for family in self._table.families:
            mine, others = self._table.of_family(family) & honest, self._table.without(family)
            if mine.any() and others.any():
                among = self._points[others]
                found.append(np.quantile(_unknown(self._points[mine], among, _factor(among)), SHARE))
        return float(np.quantile(found, SHARE)) if found else 0.0

    def distance(self, evidence: Array) -> Array:
        """Distances [R] of evidence [R, F], in units of the limit."""
        return _unknown(self._place(evidence), self._points, self._factor) / max(self.limit, 1e-12)

    def outside(self, evidence: Array) -> str | None:
        """Reason why evidence [F] is not supported, or None."""
        names = self._table.names
        if not np.isfinite(evidence).all():
            return f"{names[int(np.argmin(np.isfinite(evidence)))]} is not a finite number"
        span = (self._high - self._low) * BEYOND
        for i in (names.index(name) for name in KEYS if name in names):
            if not self._low[i] - span[i] <= evidence[i] <= self._high[i] + span[i]:
                return f"{names[i]} is {evidence[i]:.3g}, rehearsed were {self._low[i]:.3g} to {self._high[i]:.3g}"
        distance = float(self.distance(evidence[None])[0])
        if distance > 1:
            return self._far(evidence, distance)
        return self._unsure(evidence)

    def _unsure(self, evidence: Array) -> str | None:
        sure = float(self._sureness(evidence[None])[0])
        if sure >= self._sure:
            return None
        return (
            f"the candidate is as sure as on the anchor in {sure:.0%} of records only, where candidates mended a "
            f"rehearsed scenario in {self._sure:.0%} at least: these may be images of no known class"
        )

    def _far(self, evidence: Array, distance: float) -> str:
        place = self._place(evidence)
        nearest = int(np.argmin(((self._points - place) ** 2).sum(1)))
        i = int(np.argmax(np.abs(place - self._points[nearest])))
        known = self._table.evidence[nearest, i]
        return (
            f"no rehearsed scenario looks like this ({distance:.2g} times the limit); furthest out is "
            f"{self._table.names[i]}: {evidence[i]:.3g}, the nearest scenario has {known:.3g}"
        )


def _factor(points: Array) -> tuple[Array, bool]:
    kernel = smooth(points, points) + JITTER * np.eye(len(points))
    return cho_factor(kernel)  # type: ignore[no-any-return]


def _unknown(points: Array, among: Array, factor: tuple[Array, bool]) -> Array:
    near = smooth(points, among)
    known = np.einsum("rn,nr->r", near, cho_solve(factor, near.T))
    return np.asarray(np.sqrt(np.clip(1 - known, 0, 1)))
