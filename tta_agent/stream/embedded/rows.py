"""Conversion between records and rows of the embedded log.

A row id is `slot << 40 | offset`: all records are one clustered tree, in which each partition is a contiguous
range in offset order.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable

from tta_agent.core.sqlite import Connection
from tta_agent.core.types import Headers, Partition, RawRecord

OFFSET_BITS = 40


def row_id(slot: int, offset: int) -> int:
    """Row id of a record."""
    return slot << OFFSET_BITS | offset


def offset_of(row: int) -> int:
    """Offset of a record, from its row id."""
    return row & ((1 << OFFSET_BITS) - 1)


def headers_to_text(headers: Headers) -> str:
    """Headers as JSON, or None for none; latin-1 maps each byte to one character and back."""
    return json.dumps([(name, value.decode("latin-1")) for name, value in headers]) if headers else ""


def headers_from_text(text: str) -> Headers:
    """Inverse of `headers_to_text`."""
    return tuple((name, value.encode("latin-1")) for name, value in json.loads(text)) if text else ()


def payload_bytes(record: RawRecord) -> int:
    """Bytes of a record in the limit of a poll."""
    return len(record.key or b"") + len(record.value or b"")


def read(
    log: Connection, partition: Partition, slot: int, position: int, limit: int, room_bytes: int
) -> list[RawRecord]:
    """Records of one partition from `position` on, `limit` of them or `room_bytes` at most."""
    columns = "id, timestamp_ms, key, value, headers"
    sql = f"SELECT {columns} FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
    span = (row_id(slot, position), row_id(slot + 1, 0), limit)
    with contextlib.closing(log.execute(sql, span)) as rows:
        return _take_until((_record(partition, row) for row in rows), room_bytes)


def _take_until(records: Iterable[RawRecord], room_bytes: int) -> list[RawRecord]:
    """Records up to and including the one that fills the room, so that a huge one still gets through."""
    taken: list[RawRecord] = []
    for record in records:
        taken.append(record)
        room_bytes -= payload_bytes(record)
        if room_bytes <= 0:
            break
    return taken


def _record(partition: Partition, row: tuple[int, int, bytes | None, bytes | None, str]) -> RawRecord:
    number, timestamp_ms, key, value, headers = row
    return RawRecord(*partition, offset_of(number), timestamp_ms, key, value, headers_from_text(headers))
