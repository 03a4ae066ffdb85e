"""The error budget of each regime, simulated: false promotions against its bound, and what a budget for all costs.

Regimes come in turn and come back. In each turn candidates are tried by the agent's own spending and certificate, one
decisive label after the other; one candidate in ten is better, the others exactly as good as what serves.
"""

from __future__ import annotations

import functools
import statistics

import numpy as np

from tta_agent.drift.regime import DataRegime
from tta_agent.rollout.spending import AlphaSpending
from tta_agent.scoring.sample_scores import log_e

ALPHAS = (0.01, 0.1)
TURNS, REGIMES, TRIED = 40, 8, 4  # turns of a stream, kinds of records, candidates tried in a turn
LABELS, BETTER, P_BETTER = 400, 0.1, 0.75  # decisive labels of a candidate at most; of the better ones


class OneBudget:
    """Spending without regimes, as it was at first: for comparison."""

    def __init__(self, alpha):
        self._spending = AlphaSpending(alpha)

    def next(self, blocks):
        return self._spending.next(blocks)

    def left(self, regime):
        """Nothing is renewed where records change."""

    def renew(self):
        self._spending.renew()


def decisive(level, p_win, random):
    """Decisive labels until E >= 1 / level, None where it is never so."""
    wins = np.cumsum(random.random(LABELS) < p_win)
    limit = -np.log(level)
    return next((n for n, won in enumerate(wins.tolist(), 1) if _log_e(won, n - won) >= limit), None)


_log_e = functools.cache(log_e)


def stream(seed, alpha, spending):
    """False and true promotions, budgets opened, labels until each better candidate was promoted.

    Returns:
        (V, R, B, labels): R counts all promotions, the false ones among them; B: with each promotion, and with each
        regime that is new since then, one budget more; labels None: it was not promoted.
    """
    random = np.random.default_rng([seed, 19])
    budgets, seen, present, took = spending(alpha), set(), None, []
    false = promoted = opened = 0
    for _ in range(TURNS):
        turn = int(random.integers(REGIMES))
        if present is not None and turn != present:
            budgets.left(DataRegime(_blocks(present, 40, random)))
        opened += turn not in seen
        seen.add(turn)
        present = turn
        for _ in range(TRIED):
            better = random.random() < BETTER
            needed = decisive(budgets.next(_blocks(turn, 9, random)), P_BETTER if better else 0.5, random)
            took += [needed] if better else []
            if needed is not None:
                promoted, false = promoted + 1, false + (not better)
                budgets.renew()
                seen = {turn}
                opened += 1
    return false, promoted, opened, took


def _blocks(kind, n, random):
    return 50.0 * kind + random.standard_normal((n, 2))


def run(pool, quick):
    """By alpha and kind of budget: false promotions, their bound alpha B, labels until a better one serves."""
    found = {}
    for alpha in ALPHAS:
        for name, spending in (("by regime", AlphaSpending), ("one budget", OneBudget)):
            one = functools.partial(stream, alpha=alpha, spending=spending)
            rows = list(pool.map(one, range(100 if quick else 1000), chunksize=10))
            found[f"{name}, alpha {alpha}"] = told = _summary(rows, alpha)
            print(f"budget {name}, alpha {alpha}: {told}", flush=True)
    return {"budget": found}


def _summary(rows, alpha):
    took = [np.inf if n is None else n for row in rows for n in row[3]]
    return {
        "streams": len(rows), "false": sum(row[0] for row in rows), "promoted": sum(row[1] for row in rows),
        "bound": round(alpha * sum(row[2] for row in rows), 1),
        "labels_until_better": statistics.median(took), "better_never": float(np.mean(np.isinf(took))),
    }  # fmt: skip
