"""The exported graph is the model that was adapted: finite, equal to torch, and no heavier than what serves.

Time is measured only where the candidate is another graph than what serves, and not the same one with other tensors.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from tta_agent.core.evidence import Evidence
from tta_agent.core.types import GateResult


class Integrity:
    """Parity with torch on fixed inputs, finite answers, size, speed.

    Args:
        agreement: least share of fixed inputs on which torch and ONNX Runtime name the same class.
        size: largest ratio of the graph's bytes to those of the graph that serves.
        latency: largest ratio of its time to that of the graph that serves, at least (by how far serving differs from
            itself). Far above the 5 % that one would like to hold, since shared cores are noisy.
    """

    veto: ClassVar = "safety"
    watches = True

    def __init__(self, agreement: float = 0.999, size: float = 1.05, latency: float = 1.25) -> None:
        self.agreement = agreement
        self.size = size
        self.latency = latency

    def judge(self, evidence: Evidence) -> GateResult:
        """Fail is final: the same graph will not mend itself. Value and threshold are those of what failed."""
        same, apart = evidence.parity
        if not (math.isfinite(apart) and np.isfinite(evidence.candidate).all()):
            return self._failed(same, self.agreement, "the candidate answers NaN or infinity")
        if same < self.agreement:
            reason = f"torch and ONNX Runtime agree on only {same:.1%} of fixed inputs"
            return self._failed(same, self.agreement, reason)
        if evidence.size_ratio > self.size:
            reason = f"the graph is {evidence.size_ratio:.2f} x the size of serving's"
            return self._failed(evidence.size_ratio, self.size, reason)
        if evidence.latency_ratio > self.latency:
            reason = f"the graph takes {evidence.latency_ratio:.2f} x the time of serving's"
            return self._failed(evidence.latency_ratio, self.latency, reason)
        reason = f"equals torch within {apart:.1e} on fixed inputs"
        return GateResult("integrity", same, self.agreement, "pass", reason)

    def _failed(self, value: float, threshold: float, reason: str) -> GateResult:
        return GateResult("integrity", value, threshold, "fail", reason)
