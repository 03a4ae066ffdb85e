"""A gate that lets every candidate pass, and fails when it is asked about the version that serves."""

from __future__ import annotations

from tta_agent.core.evidence import Evidence
from tta_agent.core.types import GateResult


class Regret:
    """Only a candidate's evaluation knows how its optimiser fared (`health`)."""

    watches = True

    def judge(self, evidence: Evidence) -> GateResult:
        if not len(evidence.serving):
            return GateResult("regret", 0.0, 0.0, "inconclusive", "no record yet")
        if evidence.health:
            return GateResult("regret", 0.0, 0.0, "pass", "let it try")
        return GateResult("regret", 1.0, 0.0, "fail", f"regretted after {len(evidence.serving)} records")
