"""Detector of change by block means of six features.

A version that is better under noise can be worse the moment clean data return, and late labels take hundreds of
records to tell. What the records look like, and what the source answers, tells at once that they are of another
kind, though not what is right about them. So it decides nothing but where a proof applies.

Features of a record: entropy of the source's softmax, and energy (log-sum-exp; Liu et al., NeurIPS 2020,
arXiv:2010.03759); mean, standard deviation, roughness and curvature of the input. Their means over blocks of records
in the order of arrival are compared, not records: so the spread among blocks holds whatever a steady stream varies
by, classes that come in runs among it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from tta_agent.core.drift import BlockReport, Drift
from tta_agent.core.types import Array
from tta_agent.drift.regime import ENOUGH, FITTING, KEPT, LEFT, SPANS, DataRegime, joined
from tta_agent.scoring.distributions import energy, uncertainty
from tta_agent.scoring.input_lines import some_lines

BLOCK = 8  # records
CACHED = 1 << 19  # bytes of inputs that are looked at together: several passes over them stay in the cache
ROUNDING = 1e-5  # energies below it
LONGER = (*SPANS, 32, 64)  # blocks looked at together for changes of what arrives
FEATURES = ("entropy", "energy", "mean", "deviation", "roughness", "curvature")


def _looks(x: Array) -> Array:
    """Mean, standard deviation, roughness and curvature of inputs, [n, 4]; of large ones by evenly spread lines."""
    lines = some_lines(x)
    flat = lines.reshape(len(x), -1)
    mean = flat.mean(1)
    centred = flat - mean[:, None]
    deviation = np.sqrt(np.einsum("ij,ij->i", centred, centred) / flat.shape[1])
    steps = np.diff(lines, axis=-1)
    turns = np.diff(steps, axis=-1)
    return np.stack([mean, deviation, _size(steps), _size(turns)], 1)


def _size(values: Array) -> Array:
    """Mean absolute value of each input's values [n, lines, length], [n]; 0 where lines are too short for any."""
    each = values.reshape(len(values), -1)
    return np.asarray(np.abs(each, out=each).sum(1) / max(each.shape[1], 1))


class BlockMeans:
    """Compares the latest blocks with those since the last change.

    The first blocks after a change tell nothing yet: a regime needs 32 of them. Where those that were known before
    return within that time, they are taken up again.

    Attributes:
        names: of the features, for people; a subclass with other features names them.
        steady: feature means [k, d] of the blocks since the last change.
    """

    names: Sequence[str] = FEATURES

    def __init__(self) -> None:
        self._rows: list[Array] = []
        self.steady = np.empty((0, 0))
        self._before = DataRegime()  # the regime that has ended last
        self._distances: Mapping[str, float] = {}

    def features(self, logits: Array, x: Array) -> Array:
        """Entropy and energy of the source's logits [n, C]; mean, deviation, roughness, curvature of x; [n, 6].

        Roughness is the mean distance of neighbours along the last axis: noise raises it, blur lowers it. Curvature
        is that of neighbouring distances (second differences): beside the roughness it tells noise from detail, as in
        Immerkær, Fast noise variance estimation, 1996. The energy of a model that answers probabilities is 0, but
        for rounding, which would look like a change.
        """
        z = np.asarray(logits, np.float64)
        sharp = energy(z)
        sharp[np.abs(sharp) < ROUNDING] = 0.0
        together = max(1, CACHED // max(x[:1].nbytes, 1))
        looks = [_looks(x[start : start + together]) for start in range(0, max(len(x), 1), together)]
        return np.column_stack([uncertainty(z), sharp, np.concatenate(looks)])

    def regime(self, blocks: ArrayLike) -> DataRegime:
        """A regime of these blocks [k, d]."""
        return DataRegime(blocks)

    def update(self, features: Array) -> Drift:
        """Take in features [n, d] in order of arrival."""
        self._rows += list(features)
        found = tuple(self._completed())
        return Drift(found, self.steady, self._distances if found else {})

    def _completed(self) -> Iterator[BlockReport]:
        while len(self._rows) >= BLOCK:
            block = np.mean(self._rows[:BLOCK], axis=0)
            del self._rows[:BLOCK]
            self.steady = joined(self.steady, block, KEPT)
            yield BlockReport(block, self._ended())

    def _ended(self) -> DataRegime | None:
        if len(self.steady) < ENOUGH:
            if self._before.fits(self.steady):  # a short excursion: what was known before still holds
                self.steady = np.concatenate([self._before.blocks, self.steady[-FITTING:]])[-KEPT:]
            return None
        looks = [(before, latest, before.distances(latest)) for before, latest in self._splits()]
        if looks:
            farthest = np.max([distances for _, _, distances in looks], axis=0)
            self._distances = dict(zip((*self.names, "together"), farthest.tolist(), strict=True))
        for before, latest, distances in looks:
            if distances.max() > LEFT:
                self.steady, self._before = latest, before
                return before
        return None

    def _splits(self) -> Iterator[tuple[DataRegime, Array]]:
        """The blocks since the last change as those before and the latest, by each span that leaves enough before."""
        for k in LONGER:
            before = DataRegime(self.steady[:-k])
            if before.known:
                yield before, self.steady[-k:]
