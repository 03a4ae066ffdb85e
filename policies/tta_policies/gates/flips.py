"""Does the candidate contradict what every proven model was sure of?

Records on which source, serving and the last proven version name the same class with confidence above 0.9, and the
candidate another one, as a share of the *whole window*. Negative flips: Yan et al., "Positive-congruent training",
CVPR 2021, arXiv 2011.09161.

Deviations: the share is usually taken of the confident records only. A heavy shift leaves few of them, and those
are wrong: CIFAR ResNet-20s that gain 52 to 57 points under contrast flip 30 to 47 % of 3 % of the records. And a
class that serving names more often than its fair share, one in C, counts only as often as that: a model that calls
half of what arrives a bag is sure, and wrong (a Fashion-MNIST net under frost: 35 % sure, 17 % of them right;
overturning them gains 49 points). So counted, helpful candidates flip up to 0.09 of the window, and a fall onto one
class where serving is good begins at about 0.5.
Confidence is that of the temperature that fits serving on the clean anchor, for all three; raw without an anchor.
It was fitted on clean data: under shift it is still too sure, which only makes more records count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from tta_agent.core import task
from tta_agent.core.evidence import Evidence
from tta_agent.core.types import Array, GateResult, Verdict, softmax
from tta_agent.scoring.distributions import temperature
from tta_policies.gates.measures import upper_share


class Flips:
    """Vetoes candidates that overturn sure answers.

    Args:
        limit: largest share of the window that may be flipped so.
        confidence: above which an answer counts as sure.
        window: records to see first.
    """

    veto: ClassVar = "plausibility"
    bounds: ClassVar = {"limit": "high"}
    of_classes: ClassVar = False
    watches = True

    def __init__(self, limit: float = 0.15, confidence: float = 0.9, window: int = 100) -> None:
        self.limit = limit
        self.confidence = confidence
        self.window = window

    def judge(self, evidence: Evidence) -> GateResult:
        """Value is the share, `bound` its exact upper 97.5 % bound."""
        n = len(evidence.serving)
        if n < self.window:
            return GateResult("flips", 0.0, self.limit, "inconclusive", f"{n} of {self.window} records")
        sure, flipped, fair = self._flipped(evidence)
        share, bound = fair / n, upper_share(round(fair), n)
        verdict: Verdict = "fail" if share > self.limit else "pass"
        reason = (
            f"flips {int(flipped.sum())} of {int(sure.sum())} sure answers, {share:.1%} of {n} records, "
            "each class counted at its fair share at most"
        )
        return GateResult("flips", share, self.limit, verdict, reason, bound)

    def measure(self, evidence: Evidence) -> Mapping[str, float]:
        """Share of the window."""
        return {"limit": self._flipped(evidence)[2] / len(evidence.serving)}

    def _flipped(self, evidence: Evidence) -> tuple[Array, Array, float]:
        """Which answers are sure, which of them flip [N], and how many that are by fair share."""
        sure = self._sure(evidence)
        flipped = sure & (task.decide(evidence.candidate) != task.decide(evidence.serving))
        sure, flipped = task.any_place(sure), task.any_place(flipped)  # of label sets: any sure label
        return sure, flipped, float((flipped * _fair(evidence.serving)).sum())

    def _sure(self, evidence: Evidence) -> Array:
        anchor = evidence.anchor
        t = temperature(anchor.serving["clean"], anchor.labels) if anchor else 1.0
        named = task.decide(evidence.serving)
        sure = np.ones(named.shape, dtype=bool)
        for logits in (evidence.serving, evidence.source, evidence.proven):
            if logits is not None and len(logits) == len(sure):
                same = task.decide(logits) == named
                sure &= same & (softmax(logits / t).max(1) > self.confidence)
        return sure


def _fair(logits: Array) -> Array:
    """How much each record counts, 0 .. 1: no class more than one in C of the window (or three records).

    1 where answers are label sets: no class takes the place of another.
    """
    named, n, classes = task.decide(logits), len(logits), logits.shape[1]
    if named.ndim > 1:
        return np.ones(n)
    count = np.bincount(named, minlength=classes)[named]
    return np.asarray(np.minimum(1.0, max(n / classes, 3.0) / count))
