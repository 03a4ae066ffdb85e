"""Does the decision hang on a single tenant? Share of the window, and the certificate without whoever gave most.

A tenant that sends much can move a candidate and then win its trial: poisoning needs few records (Pang et al.,
IEEE S&P 2024; Su et al., ICLR 2025). The jackknife leaves each tenant's labels out in turn.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from tta_agent.core.evidence import Evidence, LabelledPair
from tta_agent.core.types import GateResult
from tta_agent.scoring.sample_scores import log_e


class Influence:
    """Bounds the weight of one tenant.

    Args:
        share: largest share of the window's records, once there are `tenants` of them; with fewer it is only told.
        tenants: for `share`.
        jackknife: labelled tenants from which on the certificate must hold without any one of them. A tenant that
            gave one win only is never left out, so records that are each their own entity cost no delay.
    """

    veto: ClassVar = "safety"

    def __init__(self, share: float = 0.1, tenants: int = 20, jackknife: int = 5) -> None:
        self.share = share
        self.tenants = tenants
        self.jackknife = jackknife

    def judge(self, evidence: Evidence) -> GateResult:
        """Value is the largest share. Inconclusive where the certificate is reached, but not without one tenant."""
        counts = Counter(evidence.tenants)
        if not counts:
            return GateResult("influence", 0.0, self.share, "pass", "no record says whose it is")
        top = max(counts.values()) / len(evidence.tenants)
        told = f"the largest of {len(counts)} tenants holds {top:.1%} of the window"
        if top > self.share and len(counts) >= self.tenants:
            return GateResult("influence", top, self.share, "inconclusive", told)
        least = self._least(evidence)
        if log_e(evidence.wins, evidence.losses) >= -math.log(evidence.alpha) > least:
            reason = (
                f"{told}; without one tenant's labels E is {math.exp(least):.3g} of {1 / evidence.alpha:.3g}"
            )
            return GateResult("influence", top, self.share, "inconclusive", reason)
        return GateResult("influence", top, self.share, "pass", told)

    def _least(self, evidence: Evidence) -> float:
        """The smallest ln E when one tenant's labels are left out."""
        outcomes = _outcomes(evidence.judged)
        if len(outcomes) < self.jackknife:
            return math.inf
        without = {
            (max(evidence.wins - wins, 0), max(evidence.losses - losses, 0))
            for wins, losses in outcomes.values()
            if wins > 1
        }
        return min((log_e(*pair) for pair in without), default=math.inf)


def _outcomes(judged: Sequence[LabelledPair]) -> dict[str, tuple[int, int]]:
    """Wins and losses by tenant."""
    found: dict[str, tuple[int, int]] = {}
    for one in judged:
        wins, losses = found.get(one.tenant, (0, 0))
        found[one.tenant] = (wins + (one.step > 0), losses + (one.step < 0))
    return found
