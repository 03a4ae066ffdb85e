"""A data regime by block means: distances in standard errors among blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tta_agent.core.types import Array

ENOUGH, KEPT = 32, 256  # blocks before a spread means something; blocks that a regime remembers
SPANS = (1, 2, 4, 8, 16)  # blocks looked at together: a large change shows in one, a small one in sixteen
FITTING = 8  # blocks that must fit before records are taken for those of a regime that was away
LEFT = 8.0  # standard errors beyond which records are of another regime
FITS = 3.5  # and within which they are clearly of the same


class DataRegime:
    """Records of one kind, by block means of their features. It follows slow drift.

    Args:
        blocks: the first ones, [k, d].
    """

    bound = LEFT

    def __init__(self, blocks: ArrayLike = ()) -> None:
        self.blocks = np.asarray(blocks, np.float64)

    def add(self, block: Array) -> None:
        """One more block [d] that belongs to it."""
        self.blocks = joined(self.blocks, block, KEPT)

    def follow(self, latest: Array) -> None:
        """Add the oldest of the latest blocks [k, d] once no comparison looks at it any more."""
        if len(latest) >= max(SPANS):
            self.add(latest[-max(SPANS)])

    @property
    def known(self) -> bool:
        """Whether it has enough blocks to tell what belongs to it."""
        return len(self.blocks) >= ENOUGH

    def distances(self, blocks: Array) -> Array:
        """Standard errors between the means of these blocks [k, d] and its own, by feature [d]; >= 0."""
        mine, middle = self.blocks, self.blocks.mean(0)
        spread = np.maximum(mine.std(0, ddof=1), 1e-6 * np.abs(middle) + 1e-12)
        errors = np.abs(blocks.mean(0) - middle) / (spread * np.sqrt(1 / len(blocks) + 1 / len(mine)))
        return np.asarray(np.nan_to_num(errors, nan=np.inf))

    def distance(self, blocks: Array) -> float:
        """The largest distance of all features; 0 while it knows too few blocks of its own."""
        return float(self.distances(blocks).max()) if self.known else 0.0

    def left_by(self, latest: Array) -> float:
        """How far beyond its bounds the latest blocks [k, d] are: the distance, or 0 within them."""
        farthest = max((self.distance(latest[-k:]) for k in SPANS if k <= len(latest)), default=0.0)
        return farthest if farthest > LEFT else 0.0

    def fits(self, latest: Array) -> bool:
        """Whether the latest eight of these blocks [k, d] clearly belong to it."""
        some = latest[-FITTING:]
        enough = self.known and len(some) == FITTING
        return enough and not self.left_by(some) and self.distance(some) <= FITS


def joined(blocks: Array, block: Array, most: int) -> Array:
    """One more block, and the oldest gives way. Never in place: regimes share blocks."""
    return np.concatenate([blocks.reshape(-1, len(block)), block[None]])[-most:]
