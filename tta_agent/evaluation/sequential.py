"""Sequential tests on labels: has the version before become better; capital of bets against a bounded mean."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tta_agent.scoring.sample_scores import log_e

BLOCK = 32  # decisive outcomes between two restarts of the detector
RESTARTS = 32  # of them kept: leaving old ones out only makes it later
RUN_LENGTH = 1000.0  # restarts until a false alarm, on average at least
BETS = (0.25, 0.5, 0.75, 0.95)  # shares of the capital that may be lost with one label


class RegressionTest:
    """Watches a version that serves: has the one before it become better?

    Two tests on the same outcomes. `since_start` is the e-process from the swap on, for the bake period. `since_any`
    sums e-processes that start anew every `BLOCK` outcomes, an e-detector (Shin, Ramdas, Rinaldo, "E-detectors",
    arXiv 2203.03532): it also finds a version that was better and is not any more. Its average run length to a
    false alarm at `RUN_LENGTH` is that many restarts.
    """

    def __init__(self) -> None:
        self._starts: deque[list[int]] = deque([[0, 0]], maxlen=RESTARTS)  # [wins, losses] of the one before
        self._total = [0, 0]

    def count(self, wins: int, losses: int) -> None:
        """So many records were won and lost by the version before, since the last call."""
        for column, more in ((0, wins), (1, losses)):
            for counts in (self._total, *self._starts):
                counts[column] += more
        if sum(self._starts[-1]) >= BLOCK:
            self._starts.append([0, 0])

    @property
    def since_start(self) -> float:
        """E of the version before, 0 .. inf."""
        return _e(*self._total)

    @property
    def since_any(self) -> float:
        """Sum of the restarted ones, 0 .. inf; alarm at `RUN_LENGTH`."""
        return sum(_e(*counts) for counts in self._starts)

    @property
    def outcomes(self) -> tuple[int, int]:
        """Wins and losses of the version before."""
        return self._total[0], self._total[1]

    def state_dict(self) -> dict[str, Any]:
        """Counts."""
        return {"starts": [list(counts) for counts in self._starts], "total": list(self._total)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._starts = deque((list(counts) for counts in state["starts"]), maxlen=RESTARTS)
        self._total = list(state["total"])


def _e(wins: int, losses: int) -> float:
    return math.exp(min(log_e(wins, losses), 700.0))


def log_capital(values: Sequence[tuple[float, float]], mean: float, low: float) -> float:
    """Logarithm of the capital of bets against "the mean is at most `mean`"; values >= `low`, each with its count."""
    logs = [
        sum(n * math.log1p(share * (value - mean) / (mean - low)) for value, n in values if n)
        for share in BETS
    ]
    return float(np.logaddexp.reduce(logs)) - math.log(len(BETS))
