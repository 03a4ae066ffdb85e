"""The exported graph is the model that was adapted: finite, equal to torch, and no larger than what serves."""

from __future__ import annotations

import math

from tta_agent.evidence import Evidence
from tta_agent.types import Finding


class Integrity:
    """Parity with torch on fixed inputs, finite answers, size.

    Args:
        agreement: least share of fixed inputs on which torch and ONNX Runtime name the same class.
        size: largest ratio of the graph's bytes to those of the graph that serves.
    """

    def __init__(self, agreement: float = 0.999, size: float = 1.05) -> None:
        self.agreement = agreement
        self.size = size

    def judge(self, evidence: Evidence) -> Finding:
        """Fail is final: the same graph will not mend itself."""
        same, apart = evidence.parity
        if not (math.isfinite(apart) and _finite(evidence)):
            return self._finding(same, "fail", "the candidate answers NaN or infinity")
        if same < self.agreement:
            return self._finding(
                same, "fail", f"torch and ONNX Runtime agree on only {same:.1%} of fixed inputs"
            )
        if evidence.size_ratio > self.size:
            return self._finding(
                same, "fail", f"the graph is {evidence.size_ratio:.2f} x the size of serving's"
            )
        return self._finding(same, "pass", f"equals torch within {apart:.1e} on fixed inputs")

    def _finding(self, value: float, verdict: str, reason: str) -> Finding:
        return Finding("integrity", value, self.agreement, verdict, reason)  # type: ignore[arg-type]


def _finite(evidence: Evidence) -> bool:
    return bool(math.isfinite(float(evidence.candidate.sum())))
