"""The proof by late labels where the world changes: a confidence sequence for the *average* gain so far.

x_t = +1, 0, -1 where only the candidate is right, there is no difference, only serving is right; S = sum x_t over the
t labels, V = sum x_t^2. The certificate tests "never better": under a null that alternates P(win) = .7 / .3 in blocks
it errs in a third of the runs and more (63 % at alpha .05 with blocks of 50), this in less than 1 %. Here nothing is
assumed of how the conditional means mu_i change; since
exp(u x - psi(u) x^2) <= 1 + u x for x >= -1 and psi(u) = -ln(1 - u) - u, 0 <= u < 1,

    exp(u (S - sum mu_i) - psi(u) V)  is a supermartingale for each u (Fan, Grama, Liu, EJP 2015),

and so is its mixture over u with a gamma density, which has a closed form (Howard, Ramdas, McAuliffe, Sekhon,
"Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 2021, arXiv 1810.08240,
Proposition 9). Ville: with probability 1 - alpha, at all t at once, mean mu_i >= (S - s*(V)) / t.
Comparing forecasters by it: Choe and Ramdas, Operations Research 2023, arXiv 2110.00115.

Deviation: the empirical-Bernstein form centres V at a running mean, which needs the range 2 instead of 1. Gains are
small against the share of decisive labels, so centring at 0 loses next to nothing and halves the range.
"""

from __future__ import annotations

import math
from typing import ClassVar

from scipy.optimize import brentq
from scipy.special import gammainc, gammaln

from tta_agent.core.evidence import Evidence
from tta_agent.core.types import GateResult, Proof


def log_mixture(s: float, v: float, rho: float) -> float:
    """ln of the gamma-exponential mixture at sum s and variance v >= 0; s + v + rho > 0. Grows with s."""
    scale = s + v + rho
    start = rho * math.log(rho) - gammaln(rho) - _log_gammainc(rho, rho)
    end = gammaln(v + rho) + _log_gammainc(v + rho, scale) - (v + rho) * math.log(scale)
    return float(start + end + s + v)


def boundary(v: float, alpha: float, focus: float) -> float:
    """s*(v) that S - sum mu_i exceeds at any time with probability <= alpha; tightest about v = `focus`."""
    spread = 2 * math.log(1 / alpha)
    rho = focus / (spread + math.log(1 + spread))
    target, high = math.log(1 / alpha), 4.0
    while log_mixture(high, v, rho) < target:
        high *= 2
    return float(brentq(lambda s: log_mixture(s, v, rho) - target, 0.0, high))


class Average:
    """Certified when the lower bound of the mean gain per label exceeds `margin`; inconclusive until then.

    Args:
        margin: gain in accuracy among the labelled records. Where labels are asked for on disagreements first, that
            is more than the gain among all records, with the same sign.
        focus: decisive labels at which the bound is tightest.
    """

    proof: ClassVar[Proof] = "certified"

    def __init__(self, margin: float = 0.0025, focus: float = 100.0) -> None:
        self.margin = margin
        self.focus = focus

    def judge(self, evidence: Evidence) -> GateResult:
        """Value is the mean, `bound` its lower bound."""
        steps = [judged.step for judged in evidence.judged]
        if not steps:
            return GateResult("average", 0.0, self.margin, "inconclusive", "no label yet")
        total, decisive = sum(steps), sum(map(abs, steps))
        mean = total / len(steps)
        bound = (total - boundary(decisive, evidence.alpha, self.focus)) / len(steps)
        told = f"mean gain {mean:+.2%}, at least {bound:+.2%}, over {len(steps)} labels ({decisive} decisive)"
        verdict = "pass" if bound > self.margin else "inconclusive"
        return GateResult("average", mean, self.margin, verdict, told, bound)  # type: ignore[arg-type]


def _log_gammainc(a: float, x: float) -> float:
    return math.log(max(float(gammainc(a, x)), 1e-300))
