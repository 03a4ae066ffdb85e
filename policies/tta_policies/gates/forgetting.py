"""Does the candidate still know what it knew? Paired accuracy on a labelled set that never changes.

With b samples that only serving gets right and c that only the candidate does, among A, the drop is (b - c) / A. Its
97.5 % upper bound is that of b/A minus the lower one of c/A, exact (Clopper-Pearson) at 98.75 % each: a little wide,
and right for b = c = 0 too, where the normal bound of paired differences would be 0.

A drop of half a point is the usual budget for adapters that stay near the source, and needs some 5,000 samples to be
seen at all. Statistics adaptation to a strong shift gives up much more *by design*: CIFAR ResNet-20s that gain 14 to
57 points under noise, fog or contrast lose 12 to 60 on clean images, and 8 to 52 even on the light corruption that
they bear best. The server is to be good on what arrives now. So by default this is the veto on a model that has
forgotten nearly everything; set `limit` where the stream may go back to clean at once.
"""

from __future__ import annotations

import math
from typing import ClassVar

from tta_agent.core import task
from tta_agent.core.evidence import AnchorResult, Evidence
from tta_agent.core.types import GateResult, Verdict
from tta_policies.gates.measures import upper_share

LEVEL = 0.9875


class Forgetting:
    """Bounds the drop on the anchor set: clean, and on the light corruption that the candidate bears best.

    Args:
        limit: largest drop of clean accuracy, 0 .. 1.
        light: the same for the light corruption with the smallest drop: the one nearest to what was learnt.
        keep: share of serving's accuracy above chance that must be kept in any case, on both.
    """

    veto: ClassVar = "safety"
    watches = True

    def __init__(self, limit: float = 1.0, light: float = 1.0, keep: float = 0.15) -> None:
        self.limit = limit
        self.light = light
        self.keep = keep

    def judge(self, evidence: Evidence) -> GateResult:
        """Value is the drop that is nearest to its threshold, `bound` its upper bound. Without an anchor: pass."""
        anchor = evidence.anchor
        if anchor is None:
            return GateResult(
                "forgetting", 0.0, self.limit, "pass", "no anchor set to look at: TTA_GATE__ANCHOR"
            )
        found = [self._one(anchor, "clean", self.limit)]
        light = [self._one(anchor, name, self.light) for name in anchor.candidate if name != "clean"]
        if light:
            found.append(min(light, key=lambda f: f.value))
        return max(found, key=lambda f: (f.bound or 0.0) - f.threshold)

    def _one(self, anchor: AnchorResult, name: str, limit: float) -> GateResult:
        before, after = (
            task.correct(side[name], anchor.labels) for side in (anchor.serving, anchor.candidate)
        )
        n = len(before)
        lost, won = int((before & ~after).sum()), int((after & ~before).sum())
        bound = upper_share(lost, n, LEVEL) - (1 - upper_share(n - won, n, LEVEL))
        chance = task.chance(anchor.serving[name])
        threshold = min(limit, (1 - self.keep) * max(before.mean() - chance, 0.0))
        if math.isclose(threshold, 0.0):  # serving knows nothing here, so nothing can be forgotten
            threshold = limit
        told = f"{name} anchor: {before.mean():.1%} to {after.mean():.1%} of {n}, drop at most {bound:.1%}"
        verdict: Verdict = "fail" if bound > threshold else "pass"
        return GateResult("forgetting", (lost - won) / n, float(threshold), verdict, told, bound)
