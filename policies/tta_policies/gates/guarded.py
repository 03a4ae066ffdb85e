"""The proof for when no label will ever come and nothing was rehearsed: so small a step that little can go wrong.

|accuracy of candidate - accuracy of proven| <= share of records on which they disagree, exactly and without a label.
Reach is that share against the last *proven* version, so that many small steps do not add up to a large one. Guarded
is not certified: the bound caps the harm, it does not show a gain. The watch takes a guarded version back when its
time is over. Few gains are to be had so: in a pilot, 3 % of the worlds, and none with 5 points or more.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tta_agent.core import task
from tta_agent.core.evidence import AnchorResult, Evidence
from tta_agent.core.types import GateResult, Proof
from tta_policies.gates.measures import upper_share

ONE_SIDED = 1.6448536269514722  # 95 % of the normal distribution lie below


class Guarded:
    """Reach below a limit, and a gain on the lightly corrupted anchor set.

    Args:
        reach: largest share of records on which the answer may change, by its exact upper 97.5 % bound.
        anchor: whether a gain on the anchor's light corruptions must be shown (95 % lower bound above 0). False takes
            a small reach alone for enough where there is no anchor set.
        window: records to see first.
    """

    proof: ClassVar[Proof] = "guarded"

    def __init__(self, reach: float = 0.03, anchor: bool = True, window: int = 100) -> None:
        self.reach = reach
        self.anchor = anchor
        self.window = window

    def judge(self, evidence: Evidence) -> GateResult:
        """Value is the reach, `bound` its upper bound."""
        base = evidence.serving if evidence.proven is None else evidence.proven
        n = min(len(base), len(evidence.candidate))
        if n < self.window:
            return GateResult("guarded", 0.0, self.reach, "inconclusive", f"{n} of {self.window} records")
        changed = int(task.differs(base, evidence.candidate).sum())
        share, bound = changed / n, upper_share(changed, n)
        told = f"answers differ from the last proven version's on {share:.1%} of {n} records, at most {bound:.1%}"
        if bound >= self.reach:
            verdict = "fail" if share >= self.reach else "inconclusive"
            return GateResult("guarded", share, self.reach, verdict, told, bound)  # type: ignore[arg-type]
        return self._with_anchor(evidence.anchor, share, bound, told)

    def _with_anchor(self, anchor: AnchorResult | None, share: float, bound: float, told: str) -> GateResult:
        lower = None if anchor is None else light_gain(anchor)
        if lower is None:
            verdict = "inconclusive" if self.anchor else "pass"
            reason = f"{told}; no corrupted anchor to show a gain on: TTA_GATE__ANCHOR"
            return GateResult("guarded", share, self.reach, verdict, reason, bound)  # type: ignore[arg-type]
        verdict = "pass" if lower > 0 else "fail"
        reason = f"{told}; gain on the lightly corrupted anchor at least {lower:+.2%}"
        return GateResult("guarded", share, self.reach, verdict, reason, bound)  # type: ignore[arg-type]


def light_gain(anchor: AnchorResult) -> float | None:
    """95 % lower bound of the candidate's mean gain over the light corruptions; None where there are none.

    Normal, over samples: the views of one sample are not independent, so each sample counts once, by its mean.
    """
    names = [name for name in anchor.candidate if name != "clean"]
    if not names:
        return None
    steps = [
        task.correct(anchor.candidate[name], anchor.labels).astype(float)
        - task.correct(anchor.serving[name], anchor.labels)
        for name in names
    ]
    gain = np.mean(steps, axis=0)
    return float(gain.mean() - ONE_SIDED * gain.std() / np.sqrt(len(gain)))
