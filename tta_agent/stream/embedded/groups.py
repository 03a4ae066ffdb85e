"""Consumer groups on the embedded log: assignment of partitions to members.

Each member works out its own share from the list of live members, gives up what is no longer in it, and takes
what is in it and free. A partition changes hands only through being free, so it never has two owners.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence

from tta_agent.core.sqlite import Connection, transaction
from tta_agent.core.types import Partition
from tta_agent.stream.embedded.store import create_topic


def share(partitions: Sequence[Partition], members: Sequence[str], member: str) -> list[Partition]:
    """Contiguous part of a topic that is assigned to one member.

    Equal numbers of equally split topics fall to the same member: a label is read where its record was.
    """
    mine = members.index(member)
    return [p for i, p in enumerate(partitions) if i * len(members) // len(partitions) == mine]


class Membership:
    """One member of a group."""

    def __init__(
        self,
        log: Connection,
        group: str,
        topics: Sequence[str],
        partitions: int,
        session_timeout_s: float,
    ) -> None:
        self._log = log
        self._group = group
        self._topics = tuple(dict.fromkeys(topics))
        self._partitions = partitions
        self._session_timeout_s = session_timeout_s
        self._member = uuid.uuid4().hex
        self._generation = -1
        self._next_beat_s = float("-inf")

    def due(self) -> bool:
        """Whether to sync now: a heartbeat is due, or members came or went."""
        return time.monotonic() >= self._next_beat_s or self._read_generation() != self._generation

    def sync(self, patience_s: float) -> dict[Partition, int]:
        """Send a heartbeat, drop silent members, and agree on the assignment; slots of our partitions."""
        with transaction(self._log, patience_s):
            changed = self._beat() + self._bury(time.time() - self._session_timeout_s)
            owned: dict[Partition, int] = {}
            for topic in self._topics:
                slots = create_topic(self._log, topic, self._partitions)
                wanted = {slots[p] for p in share(list(slots), self._members(topic), self._member)}
                changed += self._release(set(slots.values()) - wanted)
                held = self._take(wanted)
                owned |= {p: slot for p, slot in slots.items() if slot in held}
            if changed:
                self._tell_others()
            generation = self._read_generation()
        self._generation = generation
        self._next_beat_s = time.monotonic() + self._session_timeout_s / 5
        return owned

    def commit(self, positions: Mapping[int, int]) -> None:
        """Store positions by slot, where the slot is still ours."""
        sql = (
            "INSERT OR REPLACE INTO commits (grp, slot, position) SELECT grp, slot, ? FROM owners "
            "WHERE grp = ? AND slot = ? AND member = ?"
        )
        rows = [(position, self._group, slot, self._member) for slot, position in positions.items()]
        with transaction(self._log):
            self._log.executemany(sql, rows)

    def begin(self, positions: Mapping[int, int]) -> None:
        """Store where the group begins, by slot, so that what comes while nobody reads is not passed over."""
        new = {slot: n for slot, n in positions.items() if self.committed(slot) is None}
        if new:
            self.commit(new)

    def has_been(self, topic: str) -> bool:
        """Whether the group has a position in any partition of the topic."""
        sql = "SELECT 1 FROM commits JOIN partitions USING (slot) WHERE grp = ? AND topic = ? LIMIT 1"
        return self._log.execute(sql, (self._group, topic)).fetchone() is not None

    def committed(self, slot: int) -> int | None:
        """The position that the group stored last, if any."""
        sql = "SELECT position FROM commits WHERE grp = ? AND slot = ?"
        row = self._log.execute(sql, (self._group, slot)).fetchone()
        return None if row is None else int(row[0])

    def leave(self) -> None:
        """Leave the group; the next sync of another member frees our partitions."""
        with transaction(self._log):
            self._log.execute("DELETE FROM members WHERE member = ?", (self._member,))
            self._tell_others()

    def _beat(self) -> int:
        """Returns 1 where we are new, or had been dropped for being silent."""
        sql = "UPDATE members SET seen_s = ? WHERE member = ?"
        if self._log.execute(sql, (time.time(), self._member)).rowcount:
            return 0
        rows = [(self._group, topic, self._member, time.time()) for topic in self._topics]
        self._log.executemany("INSERT INTO members (grp, topic, member, seen_s) VALUES (?, ?, ?, ?)", rows)
        return 1

    def _bury(self, silent_since_s: float) -> int:
        """Drop members that gave no sign, with what they own; returns how many rows went."""
        dead = "DELETE FROM members WHERE grp = ? AND seen_s < ?"
        orphans = (
            "DELETE FROM owners WHERE grp = ? AND member NOT IN (SELECT member FROM members WHERE grp = ?)"
        )
        gone = self._log.execute(dead, (self._group, silent_since_s)).rowcount
        return gone + self._log.execute(orphans, (self._group, self._group)).rowcount

    def _members(self, topic: str) -> list[str]:
        sql = "SELECT member FROM members WHERE grp = ? AND topic = ? ORDER BY number"
        return [member for (member,) in self._log.execute(sql, (self._group, topic))]

    def _release(self, slots: set[int]) -> int:
        sql = "DELETE FROM owners WHERE grp = ? AND slot = ? AND member = ?"
        return self._log.executemany(sql, [(self._group, slot, self._member) for slot in slots]).rowcount

    def _take(self, slots: set[int]) -> set[int]:
        """Take what is free of these; returns what is ours of them."""
        rows = [(self._group, slot, self._member) for slot in slots]
        self._log.executemany("INSERT OR IGNORE INTO owners (grp, slot, member) VALUES (?, ?, ?)", rows)
        sql = "SELECT slot FROM owners WHERE grp = ? AND member = ?"
        return slots & {slot for (slot,) in self._log.execute(sql, (self._group, self._member))}

    def _tell_others(self) -> None:
        step = "ON CONFLICT (grp) DO UPDATE SET generation = generation + 1"
        sql = f"INSERT INTO generations VALUES (?, 1) {step}"
        self._log.execute(sql, (self._group,))

    def _read_generation(self) -> int:
        row = self._log.execute("SELECT generation FROM generations WHERE grp = ?", (self._group,)).fetchone()
        return int(row[0]) if row else 0
