"""How did the optimiser fare? A jump of the gradient and then silence, or a loss of nothing, is how collapse begins.

A moving average of the loss that falls below a constant is the sign of collapse in SAR (Niu et al., ICLR 2023,
arXiv 2302.12400: 0.2 with 1,000 classes, for which it resets). Deviation: a share of ln C, and a much smaller one,
since the mean entropy of *selected* samples of a well-served stream is small as well. Losses below 0 are of methods
whose loss is no entropy; they are left alone.
"""

from __future__ import annotations

import math
from typing import ClassVar

from tta_agent.core.evidence import Evidence
from tta_agent.core.types import GateResult


class HealthGate:
    """Reads `evidence.health`; what is not told there passes.

    Args:
        spike: largest ratio of the highest gradient norm to its present average; 1.1 to 1.6 with TENT on a CIFAR
            ResNet-20, clean, under contrast, and with twenty times its learning rate on one class at a time.
        loss: smallest average loss as a share of ln C; 0.07 there on clean data.
        settle: rounds that must have gone well since a step was last given up as not finite. The copy starts over
            then; the count of such steps does not.
    """

    veto: ClassVar = "safety"

    def __init__(self, spike: float = 100.0, loss: float = 5e-3, settle: int = 8) -> None:
        self.spike = spike
        self.loss = loss
        self.settle = settle

    def judge(self, evidence: Evidence) -> GateResult:
        """Value is the number that fails, else the ratio of gradients."""
        health = evidence.health
        if not health:
            return GateResult("health", 0.0, self.spike, "pass", "nothing is known of the optimiser")
        lost, rounds = health.get("nonfinite", 0.0), health.get("rounds", 0.0)
        if lost and rounds < self.settle:
            reason = f"{lost:.0f} steps were not finite, and only {rounds:.0f} rounds since"
            return GateResult("health", lost, 0.0, "fail", reason)
        least = self.loss * math.log(max(evidence.candidate.shape[1], 2))
        loss = health.get("loss", math.inf)
        if 0 <= loss < least:
            reason = f"the loss has fallen to {loss:.2g}: nothing is left to learn from but itself"
            return GateResult("health", loss, least, "fail", reason)
        return self._gradient(health.get("gradient"), health.get("gradient_peak"), rounds)

    def _gradient(self, now: float | None, peak: float | None, rounds: float) -> GateResult:
        if now is None or peak is None:
            return GateResult("health", 0.0, self.spike, "pass", f"{rounds:.0f} rounds, all finite")
        ratio = peak / max(now, 1e-12)
        if ratio > self.spike:
            reason = f"the gradient jumped to {peak:.2g} and has fallen to {now:.2g} since"
            return GateResult("health", ratio, self.spike, "fail", reason)
        reason = f"{rounds:.0f} rounds, gradient at most {ratio:.1f} x its average"
        return GateResult("health", ratio, self.spike, "pass", reason)
