"""Where a proof holds: among records like those that came while the version was being proven.

A version that is better under noise can be worse the moment clean data return, and late labels take hundreds of
records to tell. What the records look like, and what the source says to them, tells at once that they are of another
kind, though not what is right about them. So it decides nothing but where a proof applies.

Five numbers of a record: entropy of the source's softmax, and energy (log-sum-exp; Liu et al., NeurIPS 2020,
arXiv:2010.03759); mean, standard deviation and roughness of the input. Their means over blocks of records in the
order of arrival are compared, not records: so the spread among blocks holds whatever a steady stream varies by,
classes that come in runs among it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from tta_agent.core.types import Array, softmax
from tta_agent.scoring.distributions import energy, entropy

BLOCK = 8  # records
ENOUGH, KEPT = 32, 256  # blocks before a spread means something; blocks that a domain remembers
SPANS = (1, 2, 4, 8, 16)  # blocks looked at together: a large change shows in one, a small one in sixteen
LONGER = (*SPANS, 32, 64)  # the same for changes of what arrives, with which trials are adjourned
FITTING = 8  # blocks that must fit before records are taken for those of a kind that was away
LEFT = 8.0  # standard errors beyond which records are of another kind
FITS = 3.5  # and within which they are clearly of the same


def features(logits: Array, x: Array) -> Array:
    """What tells kinds of records apart, [n, 5]: of the source's logits [n, C] and the inputs [n, ...] that it had.

    Roughness is the mean distance of neighbours along the last axis: noise raises it, blur lowers it.
    """
    z, flat = np.asarray(logits, np.float64), x.reshape(len(x), -1)
    rough = np.abs(np.diff(x, axis=-1)).reshape(len(x), -1).mean(1) if x.shape[-1] > 1 else flat.mean(1)
    return np.stack([entropy(softmax(z)), energy(z), flat.mean(1), flat.std(1), rough], 1)


class DataRegime:
    """Records of one kind, by block means of their signature. It follows slow drift.

    Args:
        blocks: the first ones, [k, d].
    """

    def __init__(self, blocks: ArrayLike = ()) -> None:
        self.blocks = np.asarray(blocks, np.float64)

    def add(self, block: Array) -> None:
        """One more block [d] that belongs to it."""
        self.blocks = _joined(self.blocks, block, KEPT)

    def __bool__(self) -> bool:
        return len(self.blocks) > 0

    @property
    def known(self) -> bool:
        """Whether it has enough blocks to tell what is of its kind."""
        return len(self.blocks) >= ENOUGH

    def distance(self, blocks: Array) -> float:
        """Standard errors between the means of these blocks [k, d] and its own, the largest of all numbers; >= 0.

        0 while it knows too few blocks of its own.
        """
        if not self.known:
            return 0.0
        mine, middle = self.blocks, self.blocks.mean(0)
        spread = np.maximum(mine.std(0, ddof=1), 1e-6 * np.abs(middle) + 1e-12)
        errors = np.abs(blocks.mean(0) - middle) / (spread * np.sqrt(1 / len(blocks) + 1 / len(mine)))
        return float(np.nan_to_num(errors, nan=np.inf).max())

    def left_by(self, latest: Array) -> float:
        """How far beyond its bounds the latest blocks [k, d] are: the distance, or 0 within them."""
        farthest = max((self.distance(latest[-k:]) for k in SPANS if k <= len(latest)), default=0.0)
        return farthest if farthest > LEFT else 0.0

    def fits(self, latest: Array) -> bool:
        """Whether the latest blocks of [k, d], eight of them, are clearly of its kind."""
        some = latest[-FITTING:]
        enough = self.known and len(some) == FITTING
        return enough and not self.left_by(some) and self.distance(some) <= FITS


def _joined(blocks: Array, block: Array, most: int) -> Array:
    """One more block, and the oldest gives way. Never in place: domains share what they have seen."""
    return np.concatenate([blocks.reshape(-1, len(block)), block[None]])[-most:]


class DriftDetector:
    """Makes blocks of signatures, and remembers those since the records last changed their kind.

    Attributes:
        latest: the latest blocks [k, d], up to sixteen.
        steady: those since the records last changed their kind.
    """

    def __init__(self) -> None:
        self._rows: list[Array] = []
        self.latest = self.steady = np.empty((0, 0))
        self._before = DataRegime()  # the kind that has ended last

    def domain(self) -> DataRegime:
        """Of what arrives now."""
        return DataRegime(self.steady)

    def turn(self) -> None:
        """Another version serves now: the latest blocks have had their say."""
        self.latest = np.empty((0, 0))

    def see(self, rows: Array) -> Iterator[DataRegime | None]:
        """Signatures [n, d], in order; for each block that they complete, the kind that has ended, if so."""
        self._rows += list(rows)
        while len(self._rows) >= BLOCK:
            block = np.mean(self._rows[:BLOCK], axis=0)
            del self._rows[:BLOCK]
            self.latest = _joined(self.latest, block, max(SPANS))
            self.steady = _joined(self.steady, block, KEPT)
            yield self._ended()

    def _ended(self) -> DataRegime | None:
        if len(self.steady) < ENOUGH:
            if self._before.fits(self.steady):  # a short excursion: what was known before still holds
                self.steady = np.concatenate([self._before.blocks, self.steady[-FITTING:]])[-KEPT:]
            return None
        for k in LONGER:
            before, latest = DataRegime(self.steady[:-k]), self.steady[-k:]
            if before.distance(latest) > LEFT:
                self.steady, self._before = latest, before
                return before
        return None
