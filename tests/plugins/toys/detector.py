"""A drift detector that tells bright records from dark ones, by the sign of their mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tta_agent.core.drift import BlockReport, Drift
from tta_agent.core.types import Array

FAR = 7.0  # from bright to dark


class SignRegime:
    """Blocks of one sign."""

    bound = 1.0

    def __init__(self, blocks: ArrayLike) -> None:
        self.blocks = np.asarray(blocks, np.float64).reshape(-1, 1)

    def distance(self, blocks: Array) -> float:
        known = len(self.blocks) and len(blocks)
        return FAR if known and np.sign(blocks[-1, 0]) != np.sign(self.blocks[-1, 0]) else 0.0

    def left_by(self, latest: Array) -> float:
        return self.distance(latest)

    def fits(self, latest: Array) -> bool:
        return len(latest) > 0 and len(self.blocks) > 0 and not self.distance(latest)

    def follow(self, latest: Array) -> None:
        self.blocks = latest[-1:].copy()


class Sign:
    """Each record is a block."""

    def __init__(self) -> None:
        self._recent = np.empty((0, 1))

    def features(self, logits: Array, x: Array) -> Array:
        return x.reshape(len(x), -1).mean(1, keepdims=True)

    def update(self, features: Array) -> Drift:
        reports = [self._report(row) for row in features]
        changed = any(report.ended for report in reports)
        return Drift(reports, self._recent, {"sign": FAR if changed else 0.0} if reports else {})

    def regime(self, blocks: ArrayLike) -> SignRegime:
        return SignRegime(blocks)

    def _report(self, row: Array) -> BlockReport:
        before = SignRegime(self._recent)
        ended = bool(before.distance(row[None]))
        self._recent = row[None] if ended else np.concatenate([self._recent, row[None]])[-100:]
        return BlockReport(row, before if ended else None)
