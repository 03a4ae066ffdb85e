"""Do the answers still vary in as many directions? Collapse that the classes do not show yet.

Effective rank of the centred logits: the exponential of the entropy of their normalised singular values (Roy and
Vetterli, "The effective rank", EUSIPCO 2007). Deviation: the usual statistic is of *features*; a served graph gives
logits, whose rank is at most C - 1. Directional: only a fall fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tta_agent.core.evidence import Evidence
from tta_agent.core.types import GateResult
from tta_agent.scoring.distributions import effective_rank


class Rank:
    """Ratio of the candidate's effective rank to serving's on the window.

    Args:
        ratio: least ratio. Honest adaptation of CIFAR ResNet-20s gave 0.995 to 1.15.
        window: records to see first.
    """

    veto: ClassVar = "plausibility"
    bounds: ClassVar = {"ratio": "low"}

    def __init__(self, ratio: float = 0.8, window: int = 100) -> None:
        self.ratio = ratio
        self.window = window

    def judge(self, evidence: Evidence) -> GateResult:
        """Value is the ratio."""
        n = len(evidence.serving)
        if n < self.window:
            return GateResult("rank", 1.0, self.ratio, "inconclusive", f"{n} of {self.window} records")
        before, after = effective_rank(evidence.serving), effective_rank(evidence.candidate)
        ratio = after / max(before, 1.0)
        verdict = "fail" if ratio < self.ratio else "pass"
        reason = f"effective rank of the logits {before:.2f} to {after:.2f}"
        return GateResult("rank", ratio, self.ratio, verdict, reason)  # type: ignore[arg-type]

    def measure(self, evidence: Evidence) -> Mapping[str, float]:
        """Ratio of the effective ranks."""
        before, after = effective_rank(evidence.serving), effective_rank(evidence.candidate)
        return {"ratio": after / max(before, 1.0)}
