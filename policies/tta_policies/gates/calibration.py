"""Are the candidate's probabilities still worth as much? The scale of its logits, and calibration on the anchor.

*Scale*, always: the least-squares slope of the candidate's centred logits on serving's, over the records on which
both name the same class. Doubled logits give 2 whatever the argmax does; honest adaptation gave 0.8 to 1.4 on two
CIFAR ResNet-20s over six domains. The ratio of logit norms, the usual statistic, cannot do this: where a shift has
shrunk serving's logits, a candidate that gains 57 points has norms 2.4 times as long; and once each model has its
own temperature, doubled logits cannot be seen at all. Serving is a standard only where it still tells something:
under a lost contrast a net called nearly everything one class with large logits, and a candidate that gains 35 points
had a third of its scale on the 14 % of records with the same answer. Where both agree on less than a fifth, nothing
is concluded; and a bound counts as broken when it is by two standard errors, for 100 records of which 23 have the
same answer tell a scale to within a fifth.

*ECE*, where there is an anchor: each model gets the temperature that fits it on the clean anchor (Guo et al., ICML
2017, arXiv 1706.04599), and its expected calibration error there is compared. 2 points is the usual budget; useful
candidates under heavy shift cost up to 6 (the anchor is clean, they are not), so the default bears 10. Its error with
500 samples is about 1.5 points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from tta_agent.core import task
from tta_agent.core.evidence import AnchorResult, Evidence
from tta_agent.core.types import Array, GateResult
from tta_agent.scoring.distributions import temperature
from tta_policies.gates.measures import calibration_error


class Calibration:
    """Vetoes candidates that became much surer, or much less so, or whose confidence means less.

    Args:
        low, high: bounds of the scale.
        agreement: share of records with the same answer below which there is no common scale, 0 .. 1.
        error: largest rise of ECE on the anchor after a temperature for each, 0 .. 1.
        window: records to see first.
    """

    veto: ClassVar = "plausibility"
    bounds: ClassVar = {"low": "low", "high": "high", "error": "high"}
    of_classes: ClassVar = False

    def __init__(
        self,
        low: float = 0.7,
        high: float = 1.5,
        agreement: float = 0.2,
        error: float = 0.1,
        window: int = 100,
    ) -> None:
        self.low = low
        self.high = high
        self.agreement = agreement
        self.error = error
        self.window = window

    def judge(self, evidence: Evidence) -> GateResult:
        """Value is the scale, or the rise of ECE where that fails."""
        n = len(evidence.serving)
        if n < self.window:
            return GateResult("calibration", 1.0, self.high, "inconclusive", f"{n} of {self.window} records")
        scale, error, told = self._scale(evidence)
        if not self.low - 2 * error <= scale <= self.high + 2 * error:
            bound = self.high if scale > self.high else self.low
            reason = f"{told} ({self.low} to {self.high} is borne)"
            return GateResult("calibration", scale, bound, "fail", reason)
        if evidence.anchor is None:
            reason = f"{told}; no anchor set for ECE: TTA_GATE__ANCHOR"
            return GateResult("calibration", scale, self.high, "pass", reason)
        rise = self._rise(evidence.anchor)
        reason = f"{told}; ECE on the anchor {rise:+.1%} after a temperature for each"
        if rise > self.error:
            return GateResult("calibration", rise, self.error, "fail", reason)
        return GateResult("calibration", scale, self.high, "pass", reason)

    def measure(self, evidence: Evidence) -> Mapping[str, float]:
        """The scale, and the rise of ECE where there is an anchor."""
        scale = self._scale(evidence)[0]
        rise = {} if evidence.anchor is None else {"error": self._rise(evidence.anchor)}
        return {"low": scale, "high": scale, **rise}

    def _scale(self, evidence: Evidence) -> tuple[float, float, str]:
        """The scale with its standard error, 1 and 0 where there is no common one, and a few words."""
        agree = float((~task.differs(evidence.serving, evidence.candidate)).mean())
        if agree < self.agreement and np.isfinite(evidence.candidate).all():
            return 1.0, 0.0, f"both agree on {agree:.0%} of records, too few for a common scale"
        scale, error = slope(evidence.serving, evidence.candidate)
        return scale, error, f"logits are {scale:.2f} +- {error:.2f} x serving's where both agree"

    def _rise(self, anchor: AnchorResult) -> float:
        if not np.isfinite(anchor.candidate["clean"]).all():
            return 1.0
        serving, candidate = (
            calibration_error(side["clean"] / temperature(side["clean"], anchor.labels), anchor.labels)
            for side in (anchor.serving, anchor.candidate)
        )
        return candidate - serving


def slope(serving: Array, candidate: Array) -> tuple[float, float]:
    """Scale of the candidate's logits, [N, C] each, on the records with the same answer, and its standard error.

    1 where there is none, 0 where the candidate is not finite; the error, among records, is then 0.
    """
    same = ~task.differs(serving, candidate)
    if not np.isfinite(candidate).all():
        return 0.0, 0.0
    a, b = (np.asarray(z[same], np.float64) for z in (serving, candidate))
    a, b = (z - z.mean(1, keepdims=True) for z in (a, b))
    own = float((a * a).sum())
    if not own > 0:
        return 1.0, 0.0
    scale = float((a * b).sum()) / own
    beyond = ((b - scale * a) * a).reshape(len(a), -1).sum(1)  # of each record; their sum is 0
    return scale, float(np.sqrt((beyond * beyond).sum())) / own
