"""A gate for comparisons."""

from __future__ import annotations

from tta_agent.core.evidence import Evidence
from tta_agent.core.types import GateResult, Proof


class Anything:
    """A gate that lets everything pass, as if proven: what adapting without a gate would do. For comparison only."""

    proof: Proof = "certified"

    def judge(self, evidence: Evidence) -> GateResult:
        """Pass, once there is a record to judge by."""
        n = len(evidence.serving)
        return GateResult("anything", n, 1.0, "pass" if n else "inconclusive", "nobody asks")
