"""Do the probabilities, all records together, gather on fewer classes than serving's?

C = sum_c p_c ln p_c of the mean softmax p over the window: the collapse signal of ASR ("Adaptive and selective
reset", ICLR 2026), -ln C for answers spread evenly, 0 for a single class. Deviation: the paper compares C with its
own moving average; here it is the candidate's minus serving's on the same records, since concentrated answers may be
a stream that is skewed. It sees what the class histogram does not: probability that drifts before the argmax does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tta_agent.core.evidence import Evidence
from tta_agent.core.types import GateResult
from tta_agent.scoring.distributions import concentration


class Concentration:
    """Directional: only a rise of C fails.

    Args:
        margin: rise in nats that is always borne. A better model on a skewed stream is more concentrated, too: by up
            to 0.1 where the classes stand 10 : 1 (CIFAR ResNet-20s, serving with the wrong statistics).
        window: records to see first.
    """

    veto: ClassVar = "plausibility"
    bounds: ClassVar = {"margin": "high"}

    def __init__(self, margin: float = 0.15, window: int = 100) -> None:
        self.margin = margin
        self.window = window

    def judge(self, evidence: Evidence) -> GateResult:
        """Value is C of the candidate minus C of serving; the threshold `margin`, or the null where that is more."""
        n = len(evidence.serving)
        threshold = max(self.margin, evidence.null.get("concentration", 0.0))
        if n < self.window:
            return GateResult(
                "concentration", 0.0, threshold, "inconclusive", f"{n} of {self.window} records"
            )
        value = self.measure(evidence)["margin"]
        way = "gather on fewer classes" if value > 0 else "spread over more classes"
        verdict = "fail" if value > threshold else "pass"
        reason = f"the probabilities {way}: {value:+.3f} nats against serving"
        return GateResult("concentration", value, threshold, verdict, reason)  # type: ignore[arg-type]

    def measure(self, evidence: Evidence) -> Mapping[str, float]:
        """Rise of C."""
        return {"margin": concentration(evidence.candidate) - concentration(evidence.serving)}
