"""Durable partitioned log in one file, for use without Kafka: the default stream of the agent.

It keeps Kafka's promises on one machine: order per partition, consumer groups with committed offsets, members
that share partitions, and bounded retention. Several processes may read and write at once.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from tta_agent.core.sqlite import is_busy
from tta_agent.core.types import Partition, Positions, RawRecord
from tta_agent.stream.embedded.appender import EmbeddedProducer
from tta_agent.stream.embedded.groups import Membership
from tta_agent.stream.embedded.rows import payload_bytes, read
from tta_agent.stream.embedded.store import DEFAULT_PARTITIONS, FILE, identity, open_log

__all__ = ["EmbeddedProducer", "EmbeddedStreamConsumer"]

log = logging.getLogger(__name__)
TICK_S = 0.01  # how often an idle poll looks whether the file has changed
LEAST_PATIENCE_S = 0.02  # so that a poll of no time at all can join the group


class EmbeddedStreamConsumer:
    """One member of a consumer group on the embedded log; implements `StreamConsumer`.

    Args:
        path: the file; it is created, and so are missing topics.
        topics: names of topics to read.
        group: consumer group; its members share the partitions, and its committed offsets outlive them.
        start: where to begin without a committed offset: "latest" or "earliest".
        max_records: most records of one poll.
        max_bytes: a poll ends with the record that reaches it.
        partitions: of topics that do not exist yet.
        session_timeout_s: a member that does not poll for so long loses its partitions.

    Raises:
        StreamError: the file is damaged or cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        topics: Sequence[str],
        group: str,
        *,
        start: Literal["latest", "earliest"] = "latest",
        max_records: int = 500,
        max_bytes: int = 32 << 20,
        partitions: int = DEFAULT_PARTITIONS,
        session_timeout_s: float = 10.0,
    ) -> None:
        self._path = Path(path)
        self._log = open_log(self._path, durable=False)  # what is lost is read again
        self._membership = Membership(self._log, group, topics, partitions, session_timeout_s)
        self._from_start = start == "earliest"
        self._topics, self._id = tuple(topics), identity(self._log)
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._slots: dict[Partition, int] = {}
        self._positions: dict[Partition, int] = {}
        self._sought: dict[Partition, int] = {}
        self._turn = 0
        self._paused = False
        self._closed = False

    def poll(self, timeout_s: float) -> Sequence[RawRecord]:
        """See `StreamConsumer`. Looks at the file every 10 ms and sleeps in between."""
        deadline_s = time.monotonic() + timeout_s
        with FILE.explained(self._path):
            while True:
                seen = self._file_version()
                ready = self._keep_membership(deadline_s - time.monotonic())
                records = self._read() if ready and not self._paused else []
                if records or not self._await_change(seen, deadline_s):
                    return records

    def pause(self) -> None:
        """See `StreamConsumer`."""
        self._paused = True

    def resume(self) -> None:
        """See `StreamConsumer`."""
        self._paused = False

    def lag(self) -> int:
        """See `StreamConsumer`. Counts what is kept: records that were pruned unread are not behind us any more."""
        with FILE.explained(self._path):
            bounds = [(self._bounds(slot), self._positions[p]) for p, slot in self._slots.items()]
        return sum(end - max(first, position) for (first, end), position in bounds)

    def assignment(self) -> Sequence[Partition]:
        """See `StreamConsumer`."""
        return sorted(self._slots)

    def positions(self) -> Positions:
        """See `StreamConsumer`."""
        return dict(self._positions)

    def topic_ids(self) -> Mapping[str, str]:
        """See `StreamConsumer`. All topics of a log have the log's."""
        return dict.fromkeys(self._topics, self._id)

    def seek(self, positions: Positions, topic_ids: Mapping[str, str] | None = None) -> None:
        """See `StreamConsumer`. A position that is no longer kept becomes the oldest one that is."""
        now = self.topic_ids()
        anew = {topic for topic, id in (topic_ids or {}).items() if now.get(topic, id) != id}
        if anew:
            log.warning(
                "%s was replaced: %s are read from their beginning", self._path, ", ".join(sorted(anew))
            )
        self._sought.update({p: 0 if p[0] in anew else n for p, n in positions.items()})
        with FILE.explained(self._path):
            for partition in positions.keys() & self._slots.keys():
                self._positions[partition] = self._first_position(partition)

    def commit(self, positions: Positions) -> None:
        """See `StreamConsumer`."""
        with FILE.explained(self._path):
            self._membership.commit({self._slots[p]: n for p, n in positions.items() if p in self._slots})

    def close(self) -> None:
        """See `StreamConsumer`."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(sqlite3.Error):  # others then wait for the session to time out
            self._membership.leave()
        self._log.close()

    def _file_version(self) -> int:
        """Changes when another connection has written; by far the cheapest question to ask."""
        return int(self._log.execute("PRAGMA data_version").fetchone()[0])

    def _await_change(self, seen: int, deadline_s: float) -> bool:
        """Sleep until there may be something to do; False when the time is up."""
        while (left_s := deadline_s - time.monotonic()) > 0:
            time.sleep(min(TICK_S, left_s))
            if self._file_version() != seen or self._membership.due():
                return True
        return False

    def _keep_membership(self, patience_s: float) -> bool:
        """False while it is unknown what is ours, because others keep the file busy."""
        if not self._membership.due():
            return True
        try:
            slots = self._membership.sync(max(patience_s, LEAST_PATIENCE_S))
            kept = slots.keys() & self._slots.keys()
            self._slots = slots
            self._positions = {p: self._positions[p] if p in kept else self._first_position(p) for p in slots}
            self._membership.begin({slot: self._positions[p] for p, slot in slots.items()})
        except sqlite3.OperationalError as error:
            if is_busy(error):
                return False
            raise
        return True

    def _first_position(self, partition: Partition) -> int:
        """What was sought, else what the group committed, else what `start` says to a group that is new."""
        slot = self._slots[partition]
        first, end = self._bounds(slot)
        wanted = self._sought.pop(partition, None)
        if wanted is None:
            wanted = self._membership.committed(slot)
        if wanted is None:
            return first if self._from_start or self._membership.has_been(partition[0]) else end
        if wanted > end:
            told = "position %d of %s[%d] lies beyond its end %d: it is read from its oldest record"
            log.warning(told, wanted, *partition, end)
            return first
        return wanted  # of what is no longer kept, reading continues with the oldest that is

    def _bounds(self, slot: int) -> tuple[int, int]:
        sql = "SELECT first_offset, next_offset FROM partitions WHERE slot = ?"
        first, end = self._log.execute(sql, (slot,)).fetchone()
        return int(first), int(end)

    def _read(self) -> list[RawRecord]:
        """Up to max_records, beginning with another partition each time so that none starves."""
        order = sorted(self._slots)
        self._turn = (self._turn + 1) % max(1, len(order))
        records: list[RawRecord] = []
        room_bytes = self._max_bytes
        for partition in order[self._turn :] + order[: self._turn]:
            limit = self._max_records - len(records)
            if limit <= 0 or room_bytes <= 0:
                break
            place = (self._slots[partition], self._positions[partition])
            if part := read(self._log, partition, *place, limit, room_bytes):
                self._positions[partition] = part[-1].offset + 1
                room_bytes -= sum(map(payload_bytes, part))
                records += part
        return records
