"""Writer of the embedded log: numbers records, stores them, and applies the retention."""

from __future__ import annotations

import contextlib
import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from tta_agent.core.sqlite import Connection, transaction
from tta_agent.core.types import Done
from tta_agent.stream.embedded.rows import offset_of, row_id
from tta_agent.stream.embedded.store import create_topic


@dataclass(frozen=True, slots=True)
class Message:
    """One record to be written. `headers` are text, see `rows.headers_to_text`."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: str
    timestamp_ms: int
    on_done: Done | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes in the limits of buffers and retention."""
        return len(self.key or b"") + len(self.value or b"") + len(self.headers)


@dataclass(slots=True)
class _Bounds:
    """What one partition holds: offsets from `first` up to `next`, exclusive."""

    first: int
    next: int
    size_bytes: int


class Writer:
    """Appends batches, each in one transaction.

    Args:
        log: a connection that nobody else uses.
        partitions: of topics that do not exist yet.
        retention_records: how many records each partition keeps.
        retention_bytes: how many bytes each partition keeps; at least its last record stays.
    """

    def __init__(
        self, log: Connection, partitions: int, retention_records: int, retention_bytes: int
    ) -> None:
        self._log = log
        self._partitions = partitions
        self._retention_records = retention_records
        self._retention_bytes = retention_bytes
        self._turns = itertools.count()

    def write(self, batch: Sequence[Message]) -> None:
        """Append all or nothing. Offsets cannot clash: we are alone in the transaction."""
        with transaction(self._log):
            topics = sorted({message.topic for message in batch})
            slots = {t: list(create_topic(self._log, t, self._partitions).values()) for t in topics}
            bounds: dict[int, _Bounds] = {}
            rows = [self._row(message, slots[message.topic], bounds) for message in batch]
            sql = "INSERT INTO records (id, timestamp_ms, headers, key, value) VALUES (?, ?, ?, ?, ?)"
            self._log.executemany(sql, rows)
            for slot, held in bounds.items():
                self._prune(slot, held)

    def _row(self, message: Message, slots: Sequence[int], bounds: dict[int, _Bounds]) -> tuple[object, ...]:
        """Give the message the next offset of its partition; keys decide which, the others take turns."""
        turn = next(self._turns) if message.key is None else zlib.crc32(message.key)
        slot = slots[turn % len(slots)]
        if slot not in bounds:
            bounds[slot] = self._read_bounds(slot)
        held = bounds[slot]
        row = (row_id(slot, held.next), message.timestamp_ms, message.headers, message.key, message.value)
        held.next += 1
        held.size_bytes += message.size_bytes
        return row

    def _prune(self, slot: int, held: _Bounds) -> None:
        """Drop the oldest records beyond the retention, and store the bounds."""
        size = "ifnull(length(key), 0) + ifnull(length(value), 0) + length(headers)"
        sql = f"SELECT id, {size} FROM records WHERE id >= ? ORDER BY id"
        oldest = row_id(slot, held.first)
        with contextlib.closing(self._log.execute(sql, (oldest,))) as rows:
            while self._too_much(held):
                row, size_bytes = next(rows)
                held.first = offset_of(row) + 1
                held.size_bytes -= size_bytes
        self._log.execute("DELETE FROM records WHERE id >= ? AND id < ?", (oldest, row_id(slot, held.first)))
        sql = "UPDATE partitions SET first_offset = ?, next_offset = ?, bytes = ? WHERE slot = ?"
        self._log.execute(sql, (held.first, held.next, held.size_bytes, slot))

    def _too_much(self, held: _Bounds) -> bool:
        count = held.next - held.first
        return count > max(1, self._retention_records) or (
            count > 1 and held.size_bytes > self._retention_bytes
        )

    def _read_bounds(self, slot: int) -> _Bounds:
        sql = "SELECT first_offset, next_offset, bytes FROM partitions WHERE slot = ?"
        return _Bounds(*self._log.execute(sql, (slot,)).fetchone())
