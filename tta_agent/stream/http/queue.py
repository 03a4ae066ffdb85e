"""Records that have come over HTTP and are not read yet, bounded in bytes."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tta_agent.core.types import Headers

OVERHEAD_BYTES = 1024  # of a record beside what it holds


class QueueIsFull(Exception):
    """There is no room for another record."""


@dataclass(frozen=True, slots=True)
class ReceivedRecord:
    """One record, which has no place in a log yet."""

    topic: str
    key: bytes | None
    value: bytes
    headers: Headers
    timestamp_ms: int

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return len(self.value) + sum(len(value) for _, value in self.headers) + OVERHEAD_BYTES


class ReceivedQueue:
    """Queue between the receiver and the reader. Thread-safe.

    Args:
        capacity_bytes: bound of records that wait or are arriving.

    Attributes:
        counts: records that were `received`, and those that were `dropped` since there was no room.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._records: deque[ReceivedRecord] = deque()
        self._changed = threading.Condition()  # guards everything here
        self._held_bytes = 0
        self.counts = Counter(received=0, dropped=0)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def held_bytes(self) -> int:
        """Bytes that wait or are arriving."""
        return self._held_bytes

    @contextmanager
    def arriving(self) -> Iterator[Reservation]:
        """Room for one record while it arrives; what was not put is free again afterwards."""
        share = Reservation(self)
        try:
            yield share
        except QueueIsFull:
            with self._changed:
                self.counts["dropped"] += 1
            raise
        finally:
            self._take(-share.nbytes)

    def _take(self, nbytes: int) -> None:
        """Reserve room; raises QueueIsFull where there is none."""
        with self._changed:
            if nbytes > 0 and self._held_bytes + nbytes > self._capacity_bytes:
                raise QueueIsFull
            self._held_bytes += nbytes

    def _put(self, record: ReceivedRecord, reserved: int) -> None:
        with self._changed:
            self._records.append(record)
            self._held_bytes += record.nbytes - reserved
            self.counts["received"] += 1
            self._changed.notify_all()

    def take(self, timeout_s: float, max_records: int, max_bytes: int) -> list[ReceivedRecord]:
        """The oldest records, after `timeout_s` at most; a batch ends with the record that reaches `max_bytes`."""
        found: list[ReceivedRecord] = []
        with self._changed:
            self._changed.wait_for(lambda: self._records, timeout_s)
            room_bytes = max_bytes
            while self._records and len(found) < max_records and room_bytes > 0:
                found.append(self._records.popleft())
                room_bytes -= found[-1].nbytes
            self._held_bytes -= sum(record.nbytes for record in found)
        return found


class Reservation:
    """Room for one record that arrives."""

    def __init__(self, queue: ReceivedQueue) -> None:
        self._queue, self.nbytes = queue, 0

    def grow(self, nbytes: int) -> None:
        """Reserve for so many bytes more; raises QueueIsFull where there is no room."""
        self._queue._take(nbytes)
        self.nbytes += nbytes

    def put(self, record: ReceivedRecord) -> None:
        """Hand the record over to the reader."""
        self._queue._put(record, self.nbytes)
        self.nbytes = 0
