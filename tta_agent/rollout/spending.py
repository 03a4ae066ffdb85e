"""Error budget of the candidates, for each regime.

Between two promotions, the k-th candidate of a regime may spend 6 alpha / (pi^2 k^2), which sums to alpha. So the
expected number of false promotions V is at most alpha times the number B of budgets, E[V] <= alpha E[B]: with each
promotion, and with each regime that is new since then, there is one more (simulated in benchmarks/gate_budget.py).
For one regime this is the control of the modified false discovery rate (Foster, Stine, "alpha-investing", JRSS B
70, 2008). The tests may depend on each other in any way, since their levels are summed. e-LOND (Xu, Ramdas, "Online
multiple testing with e-values", AISTATS 2024) controls the false discovery rate under any dependence, too, but its
levels fall with every candidate that was ever tried: it would punish the candidate after a change for its
forerunners on other records.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from tta_agent.core.drift import Regime
from tta_agent.core.types import Array

MOST = 8  # regimes whose spending is remembered


class AlphaSpending:
    """Levels of the candidates.

    Args:
        alpha: of each regime, between two promotions.
    """

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self._tried = 0  # candidates of the present regime since the last promotion
        self._others: deque[tuple[Regime, int]] = deque(maxlen=MOST)  # regimes that have ended

    def next(self, blocks: Array) -> float:
        """Level of a new candidate; `blocks` [k, d] of the present regime tell whether it has been there before."""
        known = next(((regime, tried) for regime, tried in self._others if regime.fits(blocks)), None)
        if known:
            self._others = deque((pair for pair in self._others if pair[0] is not known[0]), maxlen=MOST)
        self._tried += 1 + (known[1] if known else 0)
        return 6 * self._alpha / (math.pi * self._tried) ** 2

    def give_back(self) -> None:
        """The latest candidate has ended, and nothing was decided."""
        self._tried = max(self._tried - 1, 0)

    def left(self, regime: Regime) -> None:
        """The present regime has ended: another one has a budget of its own."""
        if self._tried:
            self._others.append((regime, self._tried))
        self._tried = 0

    def renew(self) -> None:
        """A candidate has been promoted: new budgets."""
        self._tried = 0
        self._others.clear()

    def state_dict(self) -> dict[str, Any]:
        """Candidates tried, here and in other regimes."""
        return {"tried": self._tried, "others": [(regime.blocks.tolist(), n) for regime, n in self._others]}

    def load_state_dict(self, state: Mapping[str, Any], regime: Callable[[Any], Regime]) -> None:
        """Continue from `state_dict()`; `regime` makes one of its blocks."""
        self._tried = state["tried"]
        self._others = deque(((regime(blocks), n) for blocks, n in state["others"]), maxlen=MOST)
