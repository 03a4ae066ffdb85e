"""Guard by labels: no class loses much of its recall, and confidence means no less than before.

A certificate speaks of accuracy. On a stream of two classes that stand 99 : 1 a candidate that never names the rare
one can be more accurate than what serves. So a certified candidate also has to be harmless to each class.

*Harm* to class c is: its recall falls by `loss` or more, to a value not above the mean recall of serving over the
classes. The second half is there because a shifted source favours some class: 99 % of the bags are called bags where
everything is. A candidate that mends the others must take some of them away.

Both halves are means of bounded values, one for each label of the class: the step +1, 0, -1 (only the candidate is
right, no difference, only serving is), and whether the candidate is right. Against "the mean is at most m" the
capital of a bet, prod(1 + f (v - m) / (m - low)), 0 < f < 1, is a supermartingale that starts at 1; so is its mean
over a grid of f (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 2024,
arXiv 2010.09686), and so is a mean of the capitals of both halves where both are true. By Ville's inequality a
class that is harmed passes at any look with probability `LEVEL` at most. All classes that matter have to pass, so no
correction for their number is needed: whichever is harmed has to err (intersection-union test, Berger, Technometrics
1982). A refusal is the other way round, any class may cause it, and its level is divided by their number.

The mean recall of serving is an estimate from the same labels and counts as known.

To rule out a fall by 20 points takes 16 labels of a class without a loss, and hundreds where some are lost: a price
for candidates that are doubted to lose classes, and for classes that look harmed by their labels. Where nothing
speaks for that, only ruin is ruled out, a fall by half to a twentieth or less, and only of classes that the candidate
takes away: 6 labels without a loss do, or two right answers among three.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from tta_agent.core.evidence import Evidence, LabelledPair
from tta_agent.core.types import GateResult, Verdict
from tta_agent.evaluation.class_tally import ALONE, ClassTally, exposed, groups, mean_recall, tally
from tta_agent.evaluation.sequential import log_capital

Doubt = Literal[
    "none", "some", "classes"
]  # of gates without labels: about something, about the classes named
RUIN, LOST = 0.5, 0.05  # fall of recall, and recall after it, to be ruled out where nothing speaks for harm
SOME = 4  # labels from which a class may look harmed
LEVEL = 0.1  # chance that a class that is harmed passes; the certificate has to pass as well
FALL = (
    0.75  # weight of the fall among the two halves of harm: of a rare class it is all that can be shown soon
)
HARM = 0.05  # chance that a candidate is refused that harms no class
CONFIDENT = 100  # labels from which an ECE over 10 bins tells anything
BINS = 10
ERROR = 0.1  # largest rise of ECE on the labels, as of gate `calibration` on the anchor


class LabelGuard:
    """Guard of a candidate by the labels of its evaluation.

    Args:
        loss: fall of a class's recall that counts as harm, 0 .. 1.
        error: largest rise of the calibration error on the labels, 0 .. 1.
    """

    def __init__(self, loss: float = 0.2, error: float = ERROR) -> None:
        self.loss, self.error = loss, error

    def judge(self, evidence: Evidence, doubt: Doubt) -> tuple[GateResult, ...]:
        """Results `worst_class` and `label_calibration`; empty where there is no label.

        Args:
            doubt: "none": only classes that the candidate names much less often than serving does have to be shown
                unharmed, and those that look harmed; "some": every class; "classes": every class, and by `loss`
                instead of `RUIN`.
        """
        if not evidence.judged:
            return ()
        return self._worst_class(evidence, doubt), self._calibration(evidence.judged)

    def _worst_class(self, evidence: Evidence, doubt: Doubt) -> GateResult:
        tallies = tally(evidence)
        usual = mean_recall(tallies)
        alone = [one for one in tallies if one.labels >= ALONE]
        harmed = [one for one in alone if self._is_harmed(one, usual, len(alone))]
        if harmed:
            return self._result("fail", min(harmed, key=lambda one: one.gain), "labels say that it is harmed")
        asked = self._asked(evidence, tallies, usual, doubt)
        unknown = [one for one in groups(asked) if not self._is_unharmed(one, usual, doubt)]
        if unknown:
            return self._result("inconclusive", min(unknown, key=lambda one: one.labels), "too few to tell")
        worst = min(tallies, key=lambda one: one.gain)
        return self._result(
            "pass", worst, "the most that any class loses" if worst.gain < 0 else "none loses"
        )

    def _asked(
        self, evidence: Evidence, tallies: Sequence[ClassTally], usual: float, doubt: Doubt
    ) -> Sequence[ClassTally]:
        """Classes that have to be shown unharmed."""
        if doubt != "none":
            return tallies
        fewer = exposed(evidence, self.loss)
        return [one for one in tallies if one.name in fewer or self._looks_harmed(one, usual)]

    def _result(self, verdict: Verdict, one: ClassTally, why: str) -> GateResult:
        return GateResult(
            "worst_class", one.gain, -self.loss, verdict, f"class {one.name}: {one.recalls}; {why}"
        )

    def _is_harmed(self, one: ClassTally, usual: float, classes: int) -> bool:
        falls = ((1.0, one.losses), (0.0, one.labels - one.wins - one.losses), (-1.0, one.wins))
        sure = log_capital(falls, self.loss, -1.0) >= math.log(classes / HARM)
        return sure and one.right <= usual * one.labels

    def _looks_harmed(self, one: ClassTally, usual: float) -> bool:
        return one.labels >= SOME and one.gain <= -self.loss and one.right <= usual * one.labels

    def _is_unharmed(self, one: ClassTally, usual: float, doubt: Doubt) -> bool:
        harm = self.loss, usual
        if doubt != "classes" and not self._looks_harmed(one, usual):
            harm = max(self.loss, RUIN), min(usual, LOST)
        return log_unharmed(one, *harm) >= math.log(1 / LEVEL)

    def _calibration(self, judged: Sequence[LabelledPair]) -> GateResult:
        known = [one for one in judged if not math.isnan(sum(one.confidence))]
        if len(known) < CONFIDENT:
            told = f"{len(known)} of {CONFIDENT} labels that tell of calibration"
            return GateResult("label_calibration", 0.0, self.error, "pass", told)
        before, after = (_side(known, side) for side in (0, 1))
        rise, doubt = after[0] - before[0], 2 * math.hypot(after[1], before[1])
        verdict: Verdict = "fail" if rise - doubt > self.error else "pass"
        told = f"ECE {before[0]:.1%} to {after[0]:.1%} on {len(known)} labels, {rise - doubt:+.1%} at least"
        return GateResult("label_calibration", rise, self.error, verdict, told, rise - doubt)


def log_unharmed(one: ClassTally, loss: float, most: float) -> float:
    """Logarithm of the e-value against "its recall falls by `loss`, to `most` or less"; high = it does not."""
    steps = ((1.0, one.wins), (0.0, one.labels - one.wins - one.losses), (-1.0, one.losses))
    hits = ((1.0, one.right), (0.0, one.labels - one.right))
    both = log_capital(steps, -loss, -1.0), log_capital(hits, min(max(most, 0.05), 0.95), 0.0)
    return float(np.logaddexp(both[0] + math.log(FALL), both[1] + math.log(1 - FALL)))


def _side(known: Sequence[LabelledPair], side: int) -> tuple[float, float]:
    """Expected calibration error over bins of equal count, and its standard error."""
    sure = np.array([one.confidence[side] for one in known])
    right = np.array([one.rights()[side] for one in known])
    gaps = np.array_split((right - sure)[np.argsort(sure, kind="stable")], BINS)
    error = sum(len(gap) * abs(gap.mean()) for gap in gaps) / len(known)
    return float(error), math.sqrt(sum(len(gap) * gap.var() for gap in gaps)) / len(known)
