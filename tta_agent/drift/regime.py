"""A data regime by block means: distances in standard errors among blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tta_agent.core.types import Array

ENOUGH, KEPT = 32, 256  # blocks before a spread means something; blocks that a regime remembers
SPANS = (1, 2, 4, 8, 16)  # blocks looked at together: a large change shows in one, a small one in sixteen
FITTING = 8  # blocks that must fit before records are taken for those of a regime that was away
LEFT = 8.0  # standard errors beyond which records are of another regime
FITS = 3.5  # and within which they are clearly of the same
TOGETHER = 0.7  # of the distance of all features together, which scatters more than that of one
RIDGE = 0.02  # share of the identity in the correlations: features may determine each other


@dataclass(frozen=True, slots=True)
class Scatter:
    """Means, standard deviations and correlations of blocks [n, d].

    Attributes:
        precision: inverse of the correlations [d, d], times the factor of the F distribution, which is 0 where there
            are fewer blocks than features.
    """

    n: int
    means: Array
    spread: Array
    precision: Array

    @classmethod
    def of(cls, blocks: Array) -> Scatter:
        """That of blocks [n, d], n > 1."""
        n, d = blocks.shape
        means = blocks.mean(0)
        centred = blocks - means
        covariance = centred.T @ centred / (n - 1)
        spread = np.maximum(np.sqrt(covariance.diagonal()), 1e-6 * np.abs(means) + 1e-12)
        correlations = (1 - RIDGE) * covariance / np.outer(spread, spread) + RIDGE * np.eye(d)
        return cls(n, means, spread, np.linalg.inv(correlations) * (max(n - d, 0) / (n - 1)))

    def distances(self, blocks: Array) -> Array:
        """Standard errors of the means of blocks [k, d], by feature; then Hotelling's T of all of them: [d + 1].

        Hotelling, Annals of Mathematical Statistics 2(3), 1931. Noise that is small beside what images vary by, in
        each feature, is large beside what they vary by in all: contrast moves deviation and roughness together,
        noise apart.
        """
        errors = (blocks.mean(0) - self.means) / (self.spread * np.sqrt(1 / len(blocks) + 1 / self.n))
        return np.append(np.abs(errors), TOGETHER * np.sqrt(errors @ self.precision @ errors))


class DataRegime:
    """Records of one kind, by block means of their features. It follows slow drift.

    Args:
        blocks: the first ones, [k, d]. Of an older checkpoint they have fewer features: those are compared.
    """

    bound = LEFT

    def __init__(self, blocks: ArrayLike = ()) -> None:
        self.blocks = np.asarray(blocks, np.float64)
        self._scatter: Scatter | None = None  # of the blocks, once it is asked for

    def add(self, block: Array) -> None:
        """One more block [d] that belongs to it."""
        self.blocks = joined(self.blocks, self._shared(block), KEPT)
        self._scatter = None

    def follow(self, latest: Array) -> None:
        """Add the oldest of the latest blocks [k, d] once no comparison looks at it any more."""
        if len(latest) >= max(SPANS):
            self.add(latest[-max(SPANS)])

    @property
    def known(self) -> bool:
        """Whether it has enough blocks to tell what belongs to it."""
        return len(self.blocks) >= ENOUGH

    def distances(self, blocks: Array) -> Array:
        """Standard errors between the means of these blocks [k, d] and its own, >= 0: see `Scatter`, [d + 1].

        What is not finite is infinitely far.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            self._scatter = self._scatter or Scatter.of(self.blocks)
            return np.asarray(np.nan_to_num(self._scatter.distances(self._shared(blocks)), nan=np.inf))

    def _shared(self, blocks: Array) -> Array:
        """Those features of blocks [..., d] that it knows."""
        return blocks[..., : self.blocks.shape[-1] or None]

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
