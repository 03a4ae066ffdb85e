"""Does the candidate contradict what every proven model was sure of?

Records on which source, serving and the last proven version name the same class with confidence above 0.9, and the
candidate another one, as a share of the *whole window*. Negative flips: Yan et al., "Positive-congruent training",
CVPR 2021, arXiv 2011.09161.

Deviation: the share is usually taken of the confident records only. A heavy shift leaves few of them, and those are
wrong: CIFAR ResNet-20s that gain 52 to 57 points under contrast flip 30 to 47 % of 3 % of the records. As shares of
the window, they stay under 0.11, and a fall onto one class where serving is good begins at 0.5.
Confidence is that of the temperature that fits serving on the clean anchor, for all three; raw without an anchor.
It was fitted on clean data: under shift it is still too sure, which only makes more records count.
"""

from __future__ import annotations

import numpy as np

from tta_agent.evidence import Evidence
from tta_agent.types import Array, Finding, softmax
from tta_policies.gates.measures import temperature, upper_share


class Flips:
    """Vetoes candidates that overturn sure answers.

    Args:
        limit: largest share of the window that may be flipped so.
        confidence: above which an answer counts as sure.
        window: records to see first.
    """

    def __init__(self, limit: float = 0.15, confidence: float = 0.9, window: int = 100) -> None:
        self.limit = limit
        self.confidence = confidence
        self.window = window

    def judge(self, evidence: Evidence) -> Finding:
        """Value is the share, `bound` its exact upper 97.5 % bound."""
        n = len(evidence.serving)
        if n < self.window:
            return Finding("flips", 0.0, self.limit, "inconclusive", f"{n} of {self.window} records")
        sure = self._sure(evidence)
        flipped = int((sure & (evidence.candidate.argmax(1) != evidence.serving.argmax(1))).sum())
        share = flipped / n
        verdict = "fail" if share > self.limit else "pass"
        reason = f"flips {flipped} of {int(sure.sum())} sure answers, {share:.1%} of {n} records"
        return Finding("flips", share, self.limit, verdict, reason, upper_share(flipped, n))  # type: ignore[arg-type]

    def _sure(self, evidence: Evidence) -> Array:
        anchor = evidence.anchor
        t = temperature(anchor.serving["clean"], anchor.labels) if anchor else 1.0
        sure = np.ones(len(evidence.serving), dtype=bool)
        for logits in (evidence.serving, evidence.source, evidence.proven):
            if logits is not None and len(logits) == len(sure):
                same = logits.argmax(1) == evidence.serving.argmax(1)
                sure &= same & (softmax(logits / t).max(1) > self.confidence)
        return sure
