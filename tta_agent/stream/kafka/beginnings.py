"""Where a group begins in a partition that it has no position for."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal

_NOTE = re.compile(r"partitions=(\d{1,9})")


class Beginnings:
    """Positions to begin at.

    A group that is new to a topic begins where it was told to. A partition that is added later is read from its
    first record, and so is a topic that is made anew: what is in there has come since. Both are told apart by the
    number of partitions that the topic had when the group came to it; it travels with each committed offset.

    Args:
        start: where a new group begins.
        partitions: numbers of the partitions of a topic.
    """

    def __init__(
        self, start: Literal["latest", "earliest"], partitions: Callable[[str], Collection[int] | None]
    ) -> None:
        self._start, self._partitions = start, partitions
        self._counts: dict[str, int] = {}  # partitions of a topic when the group came to it
        self._known: set[str] = set()  # topics that the group has been at
        self._anew: set[str] = set()  # topics whose committed offsets mean nothing

    def known(self, topics: Iterable[str]) -> None:
        """Take the group for one that has been at these topics: partitions without a position are new."""
        self._known.update(topics)

    def again(self, topic: str) -> None:
        """Read all of a topic, whatever the group has stored."""
        self._anew.add(topic)
        self._counts[topic] = 0

    def committed(self, topics: Iterable[str]) -> None:
        """Take note that the group has stored positions of these topics as they are now."""
        self._anew.difference_update(topics)

    def note(self, topic: str) -> str:
        """Metadata of a committed offset."""
        return f"partitions={self._counts.get(topic, 0)}"

    def stored(self, partition: Any, committed: Mapping[Any, Any]) -> int | None:
        """Position that the group has committed, if any."""
        self._learn(partition.topic, committed)
        found = None if partition.topic in self._anew else committed.get(partition)
        return None if found is None or found.offset < 0 else int(found.offset)

    def first(self, partition: Any, oldest: int, newest: int) -> int:
        """Position for a partition that has none."""
        added = partition.partition >= self._counts[partition.topic]
        return oldest if added or self._start == "earliest" else newest

    def _learn(self, topic: str, committed: Mapping[Any, Any]) -> None:
        if topic in self._counts:
            return
        notes = [o.metadata or "" for p, o in committed.items() if p.topic == topic and o.offset >= 0]
        told = [int(found[1]) for found in map(_NOTE.fullmatch, notes) if found]
        been = bool(notes) or topic in self._known  # notes of an older agent do not say how many there were
        self._counts[topic] = min(told, default=0 if been else len(self._partitions(topic) or ()))
