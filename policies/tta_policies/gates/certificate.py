"""The proof by late labels: a one-sided sequential McNemar test that may be looked at after every label.

On the records where exactly one graph is right, the candidate wins w and loses l times. With a uniform prior
on P(win) over (1/2, 1) the mixture likelihood ratio against P(win) = 1/2 is

    E(w, l) = 2^(w+l+1) B(w+1, l+1) P(Beta(w+1, l+1) > 1/2)

a test supermartingale under P(win | past) <= 1/2, so P(E ever >= 1/alpha) <= alpha (Ville's inequality;
Grünwald, de Heide, Koolen, "Safe testing", arXiv 1906.07801; Ramdas et al., arXiv 2210.01948).
"""

from __future__ import annotations

import math
from typing import ClassVar

from tta_agent.core.evidence import Evidence
from tta_agent.core.types import GateResult
from tta_agent.scoring.sample_scores import log_e


class Certificate:
    """Certified when E >= 1/alpha, inconclusive until then: labels can only say yes or not yet."""

    proof: ClassVar = "certified"

    def judge(self, evidence: Evidence) -> GateResult:
        """Value is E itself, the threshold 1/alpha."""
        value = math.exp(min(log_e(evidence.wins, evidence.losses), 700.0))
        threshold = 1.0 / evidence.alpha
        count = f"{evidence.wins} won, {evidence.losses} lost among {evidence.labels} labels"
        if value >= threshold:
            return GateResult("certificate", value, threshold, "pass", f"certified: {count}")
        return GateResult(
            "certificate", value, threshold, "inconclusive", f"{count}, E = {value:.3g} of {threshold:.3g}"
        )
