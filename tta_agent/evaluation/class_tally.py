"""Labels by class: how often two graphs were right about each. A set of labels counts for each of its members.

Labels on request are of records on which the graphs disagree, so that of a class they show what changes and not what
stays: a source that calls everything a shirt is right about each shirt among them, and the candidate about none,
though it may find most. So where labels are of disagreements more often than the window is, beyond chance, the
agreements that are missing count by estimate: as often as the window has them for each labelled disagreement, by the
class that both name, and as right as the candidate is where the two disagree, which is less than where they agree. A
class that the candidate never names gets none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from tta_agent.core import task
from tta_agent.core.evidence import Evidence, LabelledPair
from tta_agent.core.types import Array

ALONE = 10  # labels from which a class is judged by itself: with fewer hardly anything could be shown
SURE = 2.0  # standard errors by which labels have to be of disagreements more often than the window is
UNSEEN = 600  # labels without one of a class, after which the class is below 0.5 % (95 %) and does not matter


@dataclass(frozen=True, slots=True)
class ClassTally:
    """Labels of one class, or of several together: how many, and how often each graph was right, alone and in all.

    Attributes:
        agreed: those among them that are an estimate, of right agreements that nobody was asked about.
    """

    name: str
    labels: float = 0
    wins: int = 0
    losses: int = 0
    right: float = 0
    right_before: float = 0
    agreed: float = 0

    def with_others(self, other: ClassTally) -> ClassTally:
        """Both together."""
        counts = (
            getattr(self, field) + getattr(other, field)
            for field in ("labels", "wins", "losses", "right", "right_before", "agreed")
        )
        return ClassTally(f"{self.name}, {other.name}", *counts)

    @property
    def gain(self) -> float:
        """Recall of the candidate minus that of serving; 0 without labels."""
        return (self.wins - self.losses) / max(self.labels, 1)

    @property
    def recalls(self) -> str:
        """For people."""
        n = max(self.labels, 1)
        seen = f"on {self.labels - self.agreed:.0f} labels"
        if self.agreed >= 0.5:
            seen += f" and {self.agreed:.0f} agreements, estimated"
        return f"recall {self.right_before / n:.0%} to {self.right / n:.0%} {seen}"


def tally(evidence: Evidence) -> list[ClassTally]:
    """Labels by class, of all classes that a label or either graph names; without those that hardly ever occur."""
    counts: dict[int, list[int]] = {}
    for one in evidence.judged:
        for name in task.members(one.label):
            mine = counts.setdefault(name, [0] * 5)
            for i, yes in enumerate(_found(one, name)):
                mine[i] += yes
    if len(evidence.judged) < UNSEEN:
        named = task.named(evidence.serving).any(0) | task.named(evidence.candidate).any(0)
        for name in np.flatnonzero(named).tolist():
            counts.setdefault(name, [0] * 5)
    agreed = unasked(evidence)
    return [_tally(name, mine, agreed) for name, mine in sorted(counts.items())]


def _tally(name: int, counts: Sequence[int], agreed: Array) -> ClassTally:
    more = float(agreed[name]) if name < len(agreed) else 0.0
    labels, wins, losses, right, before = counts
    return ClassTally(str(name), labels + more, wins, losses, right + more, before + more, more)


def unasked(evidence: Evidence) -> Array:
    """Right agreements by class that labels on request leave out, an estimate, [C]; empty for labels at random."""
    agree, judged = ~task.differs(evidence.serving, evidence.candidate), evidence.judged
    apart = [one for one in judged if one.serving != one.candidate]
    share = 1 - agree.mean() if len(agree) else 0.0
    usual = len(judged) * share
    if not 0 < share < 1 or len(apart) <= usual + SURE * math.sqrt(usual * (1 - share)):
        return np.empty(0)
    missing = max(len(apart) * (1 - share) / share - (len(judged) - len(apart)), 0.0)
    right = (sum(one.rights()[1] for one in apart) + 1) / (len(apart) + 2)
    return np.asarray(missing * right * task.named(evidence.serving)[agree].mean(0))


def _found(one: LabelledPair, name: int) -> tuple[bool, ...]:
    """Whether there is a label; only the candidate, only serving finds it; the candidate does, and serving does."""
    before, right = (name in task.members(given) for given in (one.serving, one.candidate))
    return True, right and not before, before and not right, right, before


def mean_recall(tallies: Iterable[ClassTally]) -> float:
    """Mean of serving's recall over the classes that have labels."""
    found = [one.right_before / one.labels for one in tallies if one.labels >= 1]
    return float(np.mean(found)) if found else 0.0


def exposed(evidence: Evidence, loss: float) -> set[str]:
    """Names of the classes that the candidate takes away: by more than `loss`, and beyond chance, it names them less
    often than serving does, and by more than `loss` less often than labels do.

    A candidate that mends a source which calls everything one thing names that thing less often, but as often as it
    occurs.
    """
    both = task.named(evidence.serving), task.named(evidence.candidate)
    labels = task.counts(one.label for one in evidence.judged)
    classes, found = both[0].shape[1], set()
    for name in np.flatnonzero(both[0].any(0)).tolist():
        before, after = (one[:, name] for one in both)
        gone, come = int((before & ~after).sum()), int((after & ~before).sum())
        was, fewer = int(before.sum()), gone - come
        share = (labels[name] + 1) / (len(evidence.judged) + classes)
        rarely = was - fewer < (1 - loss) * share * len(after)
        if rarely and fewer > 2 * math.sqrt(gone + come) and fewer > loss * was:
            found.add(str(name))
    return found


def groups(tallies: Sequence[ClassTally]) -> list[ClassTally]:
    """Classes with `ALONE` labels each by itself, all others together."""
    alone = [one for one in tallies if one.labels >= ALONE]
    few = [one for one in tallies if one.labels < ALONE]
    return alone + ([reduce(ClassTally.with_others, few)] if few else [])
