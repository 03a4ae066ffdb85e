"""Has the candidate fallen onto few classes? Compared with what serves, on the same records.

Directional: only *towards* fewer classes counts, for a source under shift is often the collapsed one.
Entropy minimisation's usual failure (Niu et al., SAR, ICLR 2023, arXiv 2302.12400).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tta_agent.core.evidence import Evidence
from tta_agent.core.types import GateResult
from tta_agent.scoring.distributions import entropy, histogram


class Collapse:
    """Class-histogram collapse.

    Args:
        ratio: least H(candidate's class histogram) / H(serving's).
        growth: most (largest class share of the candidate) / (largest of serving).
        window: records to see first.
    """

    veto: ClassVar = "plausibility"
    bounds: ClassVar = {"ratio": "low", "growth": "high"}
    watches = True

    def __init__(self, ratio: float = 0.9, growth: float = 1.5, window: int = 100) -> None:
        self.ratio = ratio
        self.growth = growth
        self.window = window

    def judge(self, evidence: Evidence) -> GateResult:
        """Fail where the histogram narrows, inconclusive until the window is full."""
        if len(evidence.serving) < self.window:
            reason = f"{len(evidence.serving)} of {self.window} records"
            return GateResult("collapse", 1.0, self.ratio, "inconclusive", reason)
        spread, largest = self.measure(evidence).values()
        if spread < self.ratio or largest > self.growth:
            most = histogram(evidence.candidate).max()
            reason = f"class entropy falls to {spread:.2f} x serving's, the largest class holds {most:.0%}"
            return GateResult("collapse", spread, self.ratio, "fail", reason)
        return GateResult(
            "collapse", spread, self.ratio, "pass", f"class entropy is {spread:.2f} x serving's"
        )

    def measure(self, evidence: Evidence) -> Mapping[str, float]:
        """Ratios of the class entropies and of the largest classes, by the option that bounds them."""
        serving, candidate = histogram(evidence.serving), histogram(evidence.candidate)
        spread = float(entropy(candidate) / max(entropy(serving), 1e-9))
        return {"ratio": spread, "growth": float(candidate.max() / serving.max())}
