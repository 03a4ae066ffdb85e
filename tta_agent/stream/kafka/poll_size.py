"""Size of a poll in bytes: Kafka's client bounds it by a number of records only."""

from __future__ import annotations

from collections.abc import Sequence

from tta_agent.core.types import RawRecord

POLL_BYTES = 4 << 20
FIRST = 16  # records of the first poll, whose size is not known
GROWTH = 4  # from one poll to the next


class PollSize:
    """Number of records to ask for, so that a poll holds about `max_bytes`.

    The largest record of each topic's latest poll counts; it is forgotten by half with each poll of that topic.
    A poll holds more only where records have grown since.
    """

    def __init__(self, max_records: int, max_bytes: int = POLL_BYTES) -> None:
        self._max_records, self._max_bytes = max_records, max_bytes
        self._largest: dict[str, int] = {}  # bytes by topic
        self._last = max(1, FIRST // GROWTH)

    def records(self) -> int:
        """Most records of the next poll."""
        largest = max(self._largest.values(), default=1)
        fit = max(1, self._max_bytes // largest)
        return min(self._max_records, fit, GROWTH * self._last)

    def polled(self, records: Sequence[RawRecord]) -> None:
        """Take in the records of a poll."""
        if not records:
            return
        self._last = self.records()
        found: dict[str, int] = {}
        for record in records:
            found[record.topic] = max(found.get(record.topic, 1), len(record.value or b"") + 256)
        for topic, size in found.items():
            self._largest[topic] = max(size, self._largest.get(topic, 0) // 2)
