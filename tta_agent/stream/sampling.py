"""Sample of the records of each window of time, with a bound for each tenant."""

from __future__ import annotations

import hashlib
import math
from bisect import insort
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tta_agent.core.types import Label, Record

PERSON = b"tta-sample"  # this draw is independent of the hold-out's by the same salt


@dataclass(order=True, slots=True)
class Waiting:
    """A record by its rank, with the labels that came meanwhile."""

    rank: int
    id: str
    record: Record = field(compare=False)
    labels: list[Label] = field(default_factory=list, compare=False)


class WindowSample:
    """Reservoir: of the records of a window those of the least hashes, whatever order they came in.

    Windows follow the time of the records. A record waits for the end of its window, which comes with the first
    of a later window. Those that come after the end count in the window that is open.

    Args:
        most: records of a window.
        window_s: its length.
        tenant_share: of `most`, that the records of one tenant may be, in (0, 1]; one record at least.
        salt: of the hash, so that no client can choose.
        clock: seconds since the epoch; a record with a date in the future counts as one of now.
    """

    def __init__(
        self, most: int, window_s: float, tenant_share: float, salt: bytes, clock: Callable[[], float]
    ) -> None:
        self._most, self._window_s, self._salt, self._clock = most, window_s, salt, clock
        self._each = max(1, math.floor(most * tenant_share + 1e-9))
        self._open = -1  # number of the window
        self._kept: list[Waiting] = []  # in the order of their ranks
        self._by_id: dict[str, Waiting] = {}
        self._of_tenant: Counter[str] = Counter()
        self._freed: list[Label] = []  # of records that were left out

    def add(self, record: Record, label: Label | None, dropped: Counter[str]) -> list[Waiting]:
        """Take a record, with its label where that is known; the records of the window that it ends."""
        window = int(min(record.time_s, self._clock()) // self._window_s)
        ended = self._end() if window > self._open else []
        self._open = max(self._open, window)
        new = Waiting(self._rank(record.id), record.id, record, [label] if label else [])
        insort(self._kept, new)
        self._by_id[record.id] = new
        self._of_tenant[_tenant(new)] += 1
        self._bound(_tenant(new), dropped)
        return ended

    def holds(self, label: Label) -> bool:
        """Whether the label waits for its record here, from now on."""
        waiting = self._by_id.get(label.id)
        if waiting is not None:
            waiting.labels.append(label)
        return waiting is not None

    def take_freed(self) -> list[Label]:
        """Labels that wait no longer, as their records were left out."""
        freed, self._freed = self._freed, []
        return freed

    def due(self) -> list[Waiting]:
        """The records of the open window, once it has ended a window ago and no other has begun."""
        late = self._clock() >= (self._open + 2) * self._window_s
        return self._end() if self._kept and late else []

    def waiting(self) -> list[Record]:
        """Records of the open window."""
        return [one.record for one in self._kept]

    def _rank(self, id: str) -> int:
        digest = hashlib.blake2b(id.encode(), digest_size=8, key=self._salt, person=PERSON).digest()
        return int.from_bytes(digest, "big")

    def _bound(self, tenant: str, dropped: Counter[str]) -> None:
        """Leave out the last of a tenant that has too many, else the last of all."""
        if self._of_tenant[tenant] > self._each:
            last = next(i for i in reversed(range(len(self._kept))) if _tenant(self._kept[i]) == tenant)
            self._leave_out(last, "tenant_cap", dropped)
        elif len(self._kept) > self._most:
            self._leave_out(-1, "sampled_out", dropped)

    def _leave_out(self, i: int, reason: str, dropped: Counter[str]) -> None:
        gone = self._kept.pop(i)
        if self._by_id.get(gone.id) is gone:  # another source may have given a later record the same id
            del self._by_id[gone.id]
        self._of_tenant[_tenant(gone)] -= 1
        self._freed += gone.labels
        dropped[reason] += 1

    def _end(self) -> list[Waiting]:
        ended, self._kept, self._by_id = self._kept, [], {}
        self._of_tenant.clear()
        return sorted(ended, key=lambda one: (one.record.time_s, one.record.topic, one.record.offset))


def _tenant(waiting: Waiting) -> str:
    return waiting.record.tenant or waiting.record.key
