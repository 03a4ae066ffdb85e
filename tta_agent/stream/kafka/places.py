"""Positions of a member of a Kafka group, across rebalances, seeks, added partitions and topics made anew."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping
from typing import Any, Literal

from kafka import ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition

from tta_agent.core.types import Partition, Positions
from tta_agent.stream.kafka.beginnings import Beginnings
from tta_agent.stream.kafka.group_client import GroupClient
from tta_agent.stream.kafka.progress import Progress

log = logging.getLogger(__name__)
COMMIT_LIMIT_MS = 5000


class Places(ConsumerRebalanceListener):  # type: ignore[misc]
    """The positions of one consumer; the client's own class has to be the base.

    Attributes:
        there: topics at the start, where they are given by a pattern; others that match are read from their first
            record, as what is in there has come since. None: topics are given by name.

    A newly assigned partition stays paused until it is settled where to read on, so that nothing is delivered
    from a wrong place. That is, in this order: what was sought; where we were, if the partition came straight
    back in a rebalance, or what the group has committed beyond that while it went on without us; what the group
    committed; where the group begins (`Beginnings`), which is committed at once.
    But never before the oldest record that is kept, and never beyond the newest.
    """

    def __init__(self, consumer: GroupClient, start: Literal["latest", "earliest"]) -> None:
        self._consumer = consumer
        self._beginnings = Beginnings(start, consumer.partitions_for_topic)
        self._lock = threading.Lock()  # the client calls the on_* methods from a thread of its own
        self._fresh: set[Any] = set()  # assigned, not settled
        self._positions: dict[Any, int] = {}
        self._lost: set[Any] = set()  # somebody else may have read on from our positions there
        self._sought: dict[Any, int] = {}
        self._ids: dict[str, str] = {}  # of the topics that the positions belong to
        self._uncommitted: dict[Any, int] = {}  # where the group begins, not stored yet
        self._paused = False
        self.there: set[str] | None = None

    def settled(self) -> dict[Any, int]:
        """The next offset of each partition that is ours and delivers."""
        with self._lock:
            ready = self._consumer.assignment() - self._fresh
            return {p: n for p, n in self._positions.items() if p in ready}

    def topic_ids(self) -> dict[str, str]:
        """See `StreamConsumer`."""
        return dict(self._ids)

    def delivered(self, positions: Mapping[Any, int]) -> None:
        """Records up to here were handed out."""
        with self._lock:
            owned = self._consumer.assignment()
            self._positions.update({p: n for p, n in positions.items() if p in owned})

    def seek(self, positions: Positions, topic_ids: Mapping[str, str]) -> None:
        """Read on from there, as soon as the partition is ours and settled anew."""
        wanted = {TopicPartition(*p): n for p, n in positions.items()}
        with self._lock:
            self._sought.update(wanted)
            self._ids.update(topic_ids)
            self._beginnings.known({p.topic for p in wanted})
            self._unsettle(self._consumer.assignment() & wanted.keys())

    def pause(self) -> None:
        """Also what is assigned later."""
        with self._lock:
            self._paused = True
            self._consumer.pause(*self._consumer.assignment())

    def resume(self) -> None:
        """What is not settled delivers when it is."""
        with self._lock:
            self._paused = False
            self._consumer.resume(*(self._consumer.assignment() - self._fresh))

    def again(self, positions: Mapping[Any, int], ends: Mapping[Any, int], progress: Progress) -> None:
        """Seek partitions anew that have records and deliver none."""
        with self._lock:
            for p in progress.stalled(positions, ends, time.monotonic(), paused=self._paused):
                told = "%s[%d] has records after %d and has delivered none for a minute: it is sought anew"
                log.warning(told, *p, positions[p])
                self._unsettle({p} & self._consumer.assignment())

    def offset(self, partition: Any, position: int) -> OffsetAndMetadata:
        """A position as it is committed, with what a later member has to know about the topic."""
        return OffsetAndMetadata(position, self._beginnings.note(partition.topic), -1)

    def settle(self, limit_ms: int) -> None:
        """Find out where to read on, and let the partitions deliver. Asks brokers: may raise KafkaError."""
        self._look_at_topics()
        with self._lock:
            fresh = self._fresh & self._consumer.assignment()
        if fresh:
            oldest = self._consumer.beginning_offsets(list(fresh), timeout_ms=limit_ms)
            newest = self._consumer.end_offsets(list(fresh), timeout_ms=limit_ms)
            self._place(oldest, newest, self._committed({p.topic for p in fresh}, limit_ms))
        if self._uncommitted:
            offsets = {p: self.offset(p, n) for p, n in self._uncommitted.items()}
            self._consumer.commit(offsets, timeout_ms=COMMIT_LIMIT_MS)
            self._beginnings.committed({p.topic for p in offsets})
            self._uncommitted.clear()

    def on_partitions_revoked(self, revoked: Collection[Partition]) -> None:
        """A rebalance begins. What comes straight back goes on where it was, so nothing is forgotten yet."""

    def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        """A rebalance has ended; positions of what did not come back are void."""
        with self._lock:
            self._consumer.pause(*assigned)
            if self.there is not None:
                self._beginnings.known({p.topic for p in assigned} - self.there)
            kept = self._consumer.assignment()
            self._fresh = (self._fresh | set(assigned)) & kept
            self._positions = {p: n for p, n in self._positions.items() if p in kept}
            self._uncommitted = {p: n for p, n in self._uncommitted.items() if p in kept}

    def on_partitions_lost(self, lost: Collection[Any]) -> None:
        """The group went on without us, or may have."""
        with self._lock:
            self._lost.update(lost)

    def _look_at_topics(self) -> None:
        """Void what belongs to a topic that was deleted and made anew."""
        with self._lock:
            for topic in {p.topic for p in self._consumer.assignment()}:
                found = self._consumer.topic_id(topic)
                if found is None:
                    continue
                if self._ids.setdefault(topic, found) != found:
                    log.warning("topic %s was deleted and made anew: it is read from its beginning", topic)
                    self._ids[topic] = found
                    self._beginnings.again(topic)
                    self._void(topic)

    def _void(self, topic: str) -> None:
        for positions in (self._positions, self._sought, self._uncommitted):
            for p in [p for p in positions if p.topic == topic]:
                del positions[p]
        self._unsettle({p for p in self._consumer.assignment() if p.topic == topic})

    def _unsettle(self, partitions: set[Any]) -> None:
        self._consumer.pause(*partitions)
        self._fresh |= partitions

    def _committed(self, topics: Collection[str], limit_ms: int) -> Mapping[Any, Any]:
        """What the group has stored for all partitions of the topics, also for those of other members."""
        every = [TopicPartition(t, n) for t in topics for n in self._consumer.partitions_for_topic(t) or ()]
        return self._consumer.stored(every, timeout_ms=limit_ms)

    def _place(
        self, oldest: Mapping[Any, int], newest: Mapping[Any, int], committed: Mapping[Any, Any]
    ) -> None:
        with self._lock:
            for p in oldest.keys() & self._fresh & self._consumer.assignment():
                stored = self._beginnings.stored(p, committed)
                wanted = self._sought.pop(p, self._here(p, stored))
                if wanted is None:
                    wanted = self._beginnings.first(p, oldest[p], newest[p])
                if wanted > newest[p]:
                    told = "position %d of %s[%d] lies beyond its end %d: it is read from its oldest record"
                    log.warning(told, wanted, *p, newest[p])
                    wanted = oldest[p]
                self._positions[p] = max(wanted, oldest[p])
                if stored is None:
                    self._uncommitted[p] = self._positions[p]
                self._consumer.seek(p, self._positions[p])
                self._fresh.discard(p)
                if not self._paused:
                    self._consumer.resume(p)

    def _here(self, partition: Any, stored: int | None) -> int | None:
        here = self._positions.get(partition, stored)
        lost = partition in self._lost and here is not None and stored is not None
        self._lost.discard(partition)
        return max(here, stored) if lost else here  # type: ignore[type-var]
