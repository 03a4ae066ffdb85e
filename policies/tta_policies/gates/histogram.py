"""Has the mix of answers moved towards fewer classes? Divergence of the class histograms, on the same records.

Jensen-Shannon divergence of candidate and serving (Lin, IEEE Trans. Inf. Theory 1991) above what chance gives.
Directional: only a candidate with the *narrower* histogram can fail, for a source under shift is often the collapsed
one. On CIFAR ResNet-20s, statistics and TENT on six domains never narrowed it (entropy 0.999 to 1.52 times
serving's) and moved it by up to 0.20 nats where they mended most: an undirected test would refuse the best.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tta_agent.core.evidence import Evidence
from tta_agent.core.types import GateResult
from tta_agent.scoring.distributions import divergence, entropy, histogram
from tta_policies.gates.measures import chance_divergence


class Histogram:
    """Divergence towards fewer classes.

    Args:
        least: divergence in nats below which nothing is said, however significant: on a skewed stream a better model
            is a little more concentrated, too (0.01 there, 0.04 for a bias of +1 logit that costs 4 points).
        window: records to see first.
    """

    veto: ClassVar = "plausibility"
    bounds: ClassVar = {"least": "high"}
    watches = True

    def __init__(self, least: float = 0.02, window: int = 100) -> None:
        self.least = least
        self.window = window

    def judge(self, evidence: Evidence) -> GateResult:
        """Value is the divergence, the threshold the larger of `least` and the null's 99.5 % quantile.

        Chance moves a histogram by about 1/N, so the null (`tta-agent calibrate`) is of 4 N JS and holds for windows
        of any length; without one it is that of independent draws, chi-squared with C - 1 degrees of freedom.
        """
        n = len(evidence.serving)
        if n < self.window:
            return GateResult("histogram", 0.0, self.least, "inconclusive", f"{n} of {self.window} records")
        serving, candidate = histogram(evidence.serving), histogram(evidence.candidate)
        value = divergence(serving, candidate)
        null = evidence.null.get("histogram", chance_divergence(len(serving)))
        threshold = max(self.least, null / (4 * n))
        narrower = bool(entropy(candidate) < entropy(serving))
        way = "fewer classes" if narrower else "more classes, or none fewer"
        verdict = "fail" if narrower and value > threshold else "pass"
        reason = f"the class histogram moves by {value:.3f} nats, towards {way}"
        return GateResult("histogram", value, threshold, verdict, reason)  # type: ignore[arg-type]

    def measure(self, evidence: Evidence) -> Mapping[str, float]:
        """Divergence towards fewer classes; 0 towards more."""
        serving, candidate = histogram(evidence.serving), histogram(evidence.candidate)
        return {"least": divergence(serving, candidate) if entropy(candidate) < entropy(serving) else 0.0}
