"""Late labels joined to the answers that were served, by inference id."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass

from tta_agent.types import Label, Record

VERSIONS = 8  # whose realised accuracy is remembered


@dataclass(frozen=True, slots=True)
class Outcome:
    """One served answer, judged; `accuracy` of its version so far."""

    version: int
    correct: bool
    accuracy: float


class LabelJoin:
    """Bounded on both sides: answers that wait for a label, and labels that came before their record.

    Counts: matched, orphan (a label whose record never came), expired (an answer that never got its label).
    """

    def __init__(self, horizon_records: int) -> None:
        self.horizon_records = horizon_records
        self.counts: Counter[str] = Counter()
        self._realised: OrderedDict[int, tuple[int, int]] = OrderedDict()  # version -> right, judged
        self._answers: OrderedDict[str, tuple[int, int]] = OrderedDict()  # id -> version, class
        self._early: OrderedDict[str, Label] = OrderedDict()

    def expect(self, record: Record) -> Label | None:
        """Remember what was served; the label, where it has already come."""
        if record.served is not None and record.version is not None:
            self._answers[record.id] = (record.version, int(record.served.argmax()))
            self.counts["expired"] += self._trim(self._answers)
        return self._early.pop(record.id, None)

    def arrive(self, label: Label) -> Outcome | None:
        """What the label says about the served answer; None where the record has not come (yet)."""
        answer = self._answers.pop(label.id, None)
        if answer is None:
            self._early[label.id] = label
            self.counts["orphan"] += self._trim(self._early)
            return None
        self.counts["matched"] += 1
        return self._judge(answer[0], answer[1] == label.label)

    def _judge(self, version: int, correct: bool) -> Outcome:
        right, judged = self._realised.pop(version, (0, 0))
        self._realised[version] = (right + correct, judged + 1)
        while len(self._realised) > VERSIONS:
            self._realised.popitem(last=False)
        return Outcome(version, correct, (right + correct) / (judged + 1))

    def _trim(self, waiting: OrderedDict[str, tuple[int, int]] | OrderedDict[str, Label]) -> int:
        over = max(len(waiting) - self.horizon_records, 0)
        for _ in range(over):
            waiting.popitem(last=False)
        return over
