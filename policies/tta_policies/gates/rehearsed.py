"""The proof without labels: what rehearsals on the user's own data say of the gain, at worst.

The number comes from `tta-agent rehearse`: scenarios made of a labelled set, played with this model and adapter, and
a conformal lower bound learnt on them with whole families of shifts left out. Nothing label-free can prove a gain on
*any* stream; this proves it as far as the stream is like something that was rehearsed, and says where it is not.
"""

from __future__ import annotations

from typing import ClassVar

from tta_agent.core.evidence import Evidence
from tta_agent.core.types import GateResult, Proof


class Rehearsed:
    """Passes when the lower bound of the expected gain exceeds `margin`.

    Args:
        margin: gain in accuracy, 0.01 = one point.
    """

    proof: ClassVar[Proof] = "rehearsed"

    def __init__(self, margin: float = 0.0) -> None:
        self.margin = margin

    def judge(self, evidence: Evidence) -> GateResult:
        """Value is the most likely gain, `bound` its lower bound. Never fails: more records may bring support."""
        expected = evidence.expected
        if expected is None:
            return GateResult("rehearsed", 0.0, self.margin, "inconclusive", _nothing_yet(evidence))
        value, bound = expected.gain, expected.lower
        if not expected.supported:
            return GateResult("rehearsed", value, self.margin, "inconclusive", expected.reason, bound)
        reason = f"expected gain {value:+.1%}, at least {bound:+.1%} in {1 - expected.alpha:.0%} of scenarios"
        verdict = "pass" if bound > self.margin else "inconclusive"
        told = f"{reason}; {expected.reason}" if expected.reason else reason
        return GateResult("rehearsed", value, self.margin, verdict, told, bound)  # type: ignore[arg-type]


def _nothing_yet(evidence: Evidence) -> str:
    """Why there is no estimate."""
    n, window = len(evidence.serving), evidence.rehearsed_window
    if not window:
        return (
            "no rehearsal to go by: run `tta-agent rehearse` with this model and these settings of adaptation"
        )
    if n < window:
        return f"the window of the rehearsal is not full: {n} of {window} records"
    return "the rehearsal is asked again with the next records"
