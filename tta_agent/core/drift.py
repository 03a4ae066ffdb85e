"""The seam of drift detectors, and what they report.

Letters: n records, d features, k blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from tta_agent.core.types import Array


class Regime(Protocol):
    """A data regime: records of one kind, as blocks of features. It follows slow drift.

    Attributes:
        blocks: feature means of its blocks [k, d]; they go into the checkpoint.
        bound: distance beyond which records belong to another regime.
    """

    blocks: Array
    bound: float

    def distance(self, blocks: Array) -> float:
        """How far these blocks [k, d] are from its own; 0 while it knows too few."""

    def left_by(self, latest: Array) -> float:
        """The distance of the latest blocks [k, d] where it is beyond `bound`, else 0."""

    def fits(self, latest: Array) -> bool:
        """Whether the latest blocks [k, d] clearly belong to it; they are enough to tell."""

    def follow(self, latest: Array) -> None:
        """Take in what has been compared for long enough, of the latest blocks [k, d] since its version serves."""


@dataclass(frozen=True, slots=True)
class BlockReport:
    """One block of records as the detector sees it.

    Attributes:
        block: feature means [d].
        ended: the previous regime, where this block shows a change; else None.
    """

    block: Array
    ended: Regime | None = None


@dataclass(frozen=True, slots=True)
class Drift:
    """A detector's report on one poll.

    Attributes:
        blocks: the blocks that the poll has completed, in order.
        recent: feature means [k, d] of the blocks since the last change.
        distances: by feature, how far the latest blocks are from those before them, in standard errors.
    """

    blocks: Sequence[BlockReport] = ()
    recent: Array = field(default_factory=lambda: np.empty((0, 0)))
    distances: Mapping[str, float] = field(default_factory=dict)

    @property
    def ended(self) -> Regime | None:
        """The previous regime, if this poll showed a change."""
        return next((report.ended for report in self.blocks if report.ended), None)


class DriftDetector(Protocol):
    """Detector of change in what arrives, built as `Class(**options)`; entry-point group `tta_agent.detectors`."""

    def features(self, logits: Array, x: Array) -> Array:
        """Numbers that tell kinds of records apart, [n, d], of the source's logits [n, C] and the inputs [n, ...]."""

    def update(self, features: Array) -> Drift:
        """Take in features [n, d] in order of arrival; n may be 0. State stays bounded."""

    def regime(self, blocks: ArrayLike) -> Regime:
        """A regime of these blocks [k, d], for instance of `Drift.recent` or of a checkpoint."""
