"""Record of a promotion: the grounds on which a version may serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tta_agent.core.types import PROVING, GateResult, Proof


@dataclass(frozen=True, slots=True)
class PromotionRecord:
    """Grounds on which a version may serve.

    Attributes:
        findings: of all gates.
        counts: `wins`, `losses`, `labels`, `records`.
        by: who or what approved it.
        expires_s: end of its term, seconds since the epoch; None: unlimited.
    """

    proof: Proof
    findings: Sequence[GateResult]
    counts: Mapping[str, float]
    by: str = "agent"
    expires_s: float | None = None

    def sentence(self) -> str:
        """Sentence about the proof, for people."""
        told = (result.reason for result in self.findings if result.gate in PROVING.get(self.proof, ()))
        return next(told, str(self.proof))
