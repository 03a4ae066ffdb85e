"""How much a swap can matter at all: |accuracy_c - accuracy_s| <= share of records on which both disagree.

The bound is exact and needs no label (Jhawar & Wang 2026 and K-Bound use the same identity).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tta_agent.core import task
from tta_agent.core.evidence import Evidence
from tta_agent.core.types import GateResult


class Disagreement:
    """Rejects candidates that cannot matter, and those that contradict the server nearly everywhere.

    Args:
        least: below this share of differing answers a swap is not worth its risk.
        most: above it the candidate is another model altogether. High by default: a source that a shift has
            broken has to be contradicted nearly everywhere (91 to 96 % of records under gaussian noise in the
            demo), and the harm is bounded by the labels of the certificate, not by this.
        window: records to see first.
    """

    veto: ClassVar = "plausibility"
    bounds: ClassVar = {"most": "high"}
    of_classes: ClassVar = False

    def __init__(self, least: float = 0.005, most: float = 0.99, window: int = 100) -> None:
        self.least = least
        self.most = most
        self.window = window

    def judge(self, evidence: Evidence) -> GateResult:
        """Fail on either side, inconclusive until the window is full."""
        n = len(evidence.serving)
        share = self.measure(evidence)["most"] if n else 0.0
        if n < self.window:
            return GateResult(
                "disagreement", share, self.least, "inconclusive", f"{n} of {self.window} records"
            )
        if share < self.least:
            reason = f"differs on {share:.2%} of {n} records: no swap could matter"
            return GateResult("disagreement", share, self.least, "fail", reason)
        if share > self.most:
            reason = f"differs on {share:.0%} of {n} records: another model, not an adapted one"
            return GateResult("disagreement", share, self.most, "fail", reason)
        return GateResult("disagreement", share, self.least, "pass", f"differs on {share:.1%} of {n} records")

    def measure(self, evidence: Evidence) -> Mapping[str, float]:
        """Share of records with another answer."""
        return {"most": float(task.differs(evidence.serving, evidence.candidate).mean())}
