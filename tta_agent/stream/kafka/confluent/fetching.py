"""Partitions that librdkafka fetches, from which offsets, and which of them are paused."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from confluent_kafka import TopicPartition as Place
from kafka import TopicPartition

from tta_agent.core.types import RawRecord

STOP_AFTER_S = 5.0


class Fetching:
    """Partitions of one consumer of confluent-kafka.

    The library is given a partition once it is known where to read on, and all of them anew, with our own positions,
    whenever one is sought: nothing depends on what it had fetched until then.

    It throws away what it has fetched of a partition that is paused. The agent pauses all partitions often and
    shortly; then they only `rest`, and the library is told no sooner than after five seconds.

    Attributes:
        owned: given to us by the group.
        live: those that are fetched and can be read.
        next: next offset of each that is fetched.
        unreadable: those that stand before records that the library cannot read.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._paused: set[TopicPartition] = set()
        self._stopped: set[TopicPartition] = set()  # paused in the library
        self._joined = self._moved = False
        self._resting_s = 0.0
        self.owned: set[TopicPartition] = set()
        self.live: set[TopicPartition] = set()
        self.next: dict[TopicPartition, int] = {}
        self.unreadable: list[TopicPartition] = []

    @property
    def resting(self) -> bool:
        """Whether nothing is to be delivered."""
        return bool(self.next) and self.next.keys() <= self._paused

    def assigned(self, partitions: set[TopicPartition]) -> None:
        """The group has given us these and no others; none is fetched before it is sought."""
        self.owned, self._joined = partitions, True
        self._none()
        self._consumer.assign([])

    def revoked(self) -> None:
        """The group is being rearranged: nothing is fetched meanwhile."""
        self._joined = False
        self._none()

    def lost(self) -> None:
        """The group went on without us."""
        self.revoked()
        self.owned = set()

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read on from there."""
        if partition in self.owned and self._joined:
            self.next[partition] = offset
            self._moved = True

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Deliver nothing of these."""
        before = self.resting
        self._paused.update(partitions)
        if self.resting and not before:
            self._resting_s = time.monotonic()

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Deliver again."""
        self._paused.difference_update(partitions)

    def delivered(self, records: Iterable[RawRecord]) -> None:
        """These have been handed out."""
        self.next.update({TopicPartition(r.topic, r.partition): r.offset + 1 for r in records})

    def cannot_read(self, partition: TopicPartition) -> None:
        """Deliver nothing of this one before it is sought: its next records are read by other means."""
        if partition in self.live:
            self.live.discard(partition)
            self.unreadable.append(partition)

    def begin_anew(self) -> bool:
        """Hand the library all partitions where one has been sought; whether it was so. Raises KafkaException."""
        if not (self._moved and self._joined):
            return False
        self._resume(self._stopped)
        self._consumer.assign([Place(*p, offset) for p, offset in self.next.items()])
        self._moved, self.live, self.unreadable = False, set(self.next), []
        return True

    def apply_pauses(self) -> None:
        """Tell the library which ones are paused. Raises KafkaException."""
        wanted = self._wanted()
        if wanted != self._stopped:
            self._resume(self._stopped - wanted)
            self._consumer.pause([Place(*p) for p in wanted - self._stopped])
            self._stopped = wanted

    def _wanted(self) -> set[TopicPartition]:
        """Those that are to be paused in the library."""
        if self.resting and time.monotonic() - self._resting_s < STOP_AFTER_S:
            return self._stopped & self.next.keys()
        return self._paused & self.next.keys()

    def _resume(self, partitions: set[TopicPartition]) -> None:
        if partitions:
            self._consumer.resume([Place(*p) for p in partitions])
            self._stopped = self._stopped - partitions

    def _none(self) -> None:
        self.next.clear()
        self.live.clear()
        self._paused.clear()
        self._stopped = set()
        self.unreadable.clear()
        self._moved = False
