"""Right and wrong answers of source, served graph and adapter by record, and their accuracies by window and domain.

Letters: N records of the recording. Accuracies are shares, 0 .. 1.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tta_agent.core.types import Array

WHO = ("source", "served", "online")
MOST_WINDOWS = 60  # as many as a chart can show
LABELS_A_WINDOW = 20  # fewer windows where labels are few: a share of five records says nothing
MOST_DOMAINS = 200


@dataclass(slots=True)
class Marks:
    """Answers by record, in the order of the recording.

    Attributes:
        right: by `source`, `served`, `online`: 1 right, 0 wrong, -1 not known [N]. `online` is the adapter's own
            answer while it learns; it has none for held-out records.
        version: serving version [N].
        time_s: recorded time in seconds [N].
        domain: index into `names`, -1 for none [N].
    """

    right: dict[str, Array]
    version: Array
    time_s: Array
    domain: Array
    names: dict[str, int] = field(default_factory=dict)

    @classmethod
    def empty(cls, count: int) -> Marks:
        """Marks of `count` records, nothing of them known."""
        right = {who: np.full(count, -1, np.int8) for who in WHO}
        return cls(right, np.zeros(count, np.int32), np.zeros(count), np.full(count, -1, np.int32))

    def name(self, index: int, domain: str) -> None:
        """Set the domain of a record."""
        self.domain[index] = self.names.setdefault(domain, len(self.names))

    def first(self, count: int) -> Marks:
        """Marks of the first records alone."""
        right = {who: known[:count] for who, known in self.right.items()}
        return Marks(right, self.version[:count], self.time_s[:count], self.domain[:count], self.names)

    @property
    def labelled(self) -> int:
        """Number of records whose label is in the recording."""
        return int((self.right["source"] >= 0).sum())

    def accuracies(self) -> dict[str, float | None]:
        """Accuracies over all records; None where nothing was labelled."""
        return {f"{who}_accuracy": mean(self.right[who]) for who in WHO}

    def windows(self, most: int = MOST_WINDOWS) -> list[dict[str, Any]]:
        """Windows of equally many records, at most `most`, with the accuracies in each."""
        count = min(max(self.labelled // LABELS_A_WINDOW, 1), most, len(self.time_s))
        edges = np.linspace(0, len(self.time_s), count + 1).astype(int).tolist()
        return [self._window(a, b) for a, b in itertools.pairwise(edges)]

    def _window(self, a: int, b: int) -> dict[str, Any]:
        known = {who: self.right[who][a:b] for who in WHO}
        labelled = int((known["source"] >= 0).sum())
        # of a few records, the adapter's accuracy would not be comparable to the others'
        online = mean(known["online"]) if 2 * (known["online"] >= 0).sum() >= labelled else None
        begin_s = float(self.time_s[0])
        return {
            "first": a, "end": b, "t": float(self.time_s[a]) - begin_s,
            "t_end": float(self.time_s[min(b, len(self.time_s) - 1)]) - begin_s,
            "domain": self._domain(a, b), "labelled": labelled, "version": int(self.version[b - 1]),
            "source": mean(known["source"]), "served": mean(known["served"]), "online": online,
        }  # fmt: skip

    def _domain(self, a: int, b: int) -> str | None:
        most, count = Counter(self.domain[a:b].tolist()).most_common(1)[0]
        if 2 * count <= b - a:
            return "mixed"
        return list(self.names)[most] if most >= 0 else None

    def domains(self) -> list[dict[str, Any]]:
        """Accuracies in each domain that the recording names, in order of appearance."""
        found = []
        for name, number in list(self.names.items())[:MOST_DOMAINS]:
            its = self.domain == number
            row = {who: mean(self.right[who][its]) for who in WHO}
            found.append({"domain": name, "records": int(its.sum()), **row})
        return found


def mean(right: Array) -> float | None:
    """Share of ones among the known entries; None where there are none."""
    known = right[right >= 0]
    return float(known.mean()) if len(known) else None
