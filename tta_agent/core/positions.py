"""Offsets of what waits: reading goes on from the first of each partition."""

from __future__ import annotations

from collections.abc import Iterable

from tta_agent.core.types import Partition, Positions, RawRecord, Record


def first_offsets(waiting: Iterable[Record | RawRecord]) -> dict[Partition, int]:
    """Offset of the first of the records in each partition, whatever order they are in."""
    found: dict[Partition, int] = {}
    for one in waiting:
        place, offset = (one.topic, one.partition), one.offset
        if found.get(place, offset) >= offset:
            found[place] = offset
    return found


def least(*positions: Positions) -> dict[Partition, int]:
    """The smallest of the positions of each partition."""
    found: dict[Partition, int] = {}
    for places in positions:
        for place, offset in places.items():
            found[place] = min(offset, found.get(place, offset))
    return found
