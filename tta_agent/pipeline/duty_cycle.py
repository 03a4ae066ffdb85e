"""Duty cycle of learning: on every batch after a change and while the copy improves, then on a share of them.

Whether it improves is told by the mean entropy of its answers, which needs no label: methods of entropy lower it
until they have found what there is, and statistics alone settle within a few batches.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

LEAST = 96  # rounds after a change before there is any rest: later versions are proven until then
COMPARED = 8  # rounds of each of the two stretches whose entropies are compared
CERTAIN = 2.0  # standard errors by which the later stretch has to be lower to count as an improvement


class DutyCycle:
    """Choice of the batches that are learnt from.

    Args:
        share: of the batches, at rest; 1: there is no rest.

    Attributes:
        rests: whether only a share is learnt from; until the next change.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._due = 0.0
        self.change()

    def change(self) -> None:
        """Records of another kind, or a copy that starts over: learn from every batch."""
        self._rounds, self.rests = 0, False
        self._entropies: deque[float] = deque(maxlen=2 * COMPARED)

    def learnt(self, entropy: float | None) -> None:
        """Take in the mean entropy of a batch that was learnt from, in nats; None where none was finite."""
        self._rounds += 1
        if entropy is not None and math.isfinite(entropy):
            self._entropies.append(entropy)
        self.rests = self.rests or (self._share < 1 and self._rounds >= LEAST and not self._improves())

    @property
    def share(self) -> float:
        """Share of the batches that are learnt from now."""
        return self._share if self.rests else 1.0

    def takes(self) -> bool:
        """Whether the next batch is learnt from; at rest evenly spaced ones are."""
        self._due = min(self._due + self.share, 1.0)
        taken = self._due >= 1.0
        self._due -= taken
        return taken

    def _improves(self) -> bool:
        """Whether the mean entropy still falls."""
        if len(self._entropies) < 2 * COMPARED:
            return True
        values = list(self._entropies)
        before, after = values[:COMPARED], values[COMPARED:]
        error = math.sqrt((statistics.variance(before) + statistics.variance(after)) / COMPARED)
        return statistics.fmean(before) - statistics.fmean(after) > CERTAIN * error

    def state_dict(self) -> dict[str, Any]:
        """Rounds since the change, their entropies, whether it rests, and what is due."""
        entropies = list(self._entropies)
        return {"rounds": self._rounds, "entropies": entropies, "rests": self.rests, "due": self._due}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._rounds, self._due, self.rests = state["rounds"], state["due"], state["rests"]
        self._entropies = deque(state["entropies"], maxlen=2 * COMPARED)
