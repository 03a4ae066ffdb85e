"""Positions of a member of a Kafka group, in each of its partitions, across rebalances and seeks."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Any

from kafka import ConsumerRebalanceListener, TopicPartition

from tta_agent.core.types import Partition, Positions


class Places(ConsumerRebalanceListener):  # type: ignore[misc]
    """Positions of one consumer, as a rebalance listener: the client's own class has to be the base.

    A newly assigned partition stays paused until it is settled where to read on, so that nothing is delivered
    from a wrong place. That is, in this order: what was sought; where we were, if the partition came straight
    back in a rebalance; what the group committed; what the consumer's reset policy says. But never before the
    oldest record that is kept.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._lock = threading.Lock()  # the client calls the on_* methods from a thread of its own
        self._fresh: set[Any] = set()  # assigned, not settled
        self._positions: dict[Any, int] = {}
        self._sought: dict[Any, int] = {}
        self._paused = False

    def settled(self) -> dict[Any, int]:
        """The next offset of each partition that is ours and delivers."""
        with self._lock:
            ready = self._consumer.assignment() - self._fresh
            return {p: n for p, n in self._positions.items() if p in ready}

    def delivered(self, positions: Mapping[Any, int]) -> None:
        """Note that records up to these offsets were delivered."""
        with self._lock:
            owned = self._consumer.assignment()
            self._positions.update({p: n for p, n in positions.items() if p in owned})

    def seek(self, positions: Positions) -> None:
        """Read on from these offsets, as soon as the partitions are ours and settled anew."""
        wanted = {TopicPartition(*p): n for p, n in positions.items()}
        with self._lock:
            self._sought.update(wanted)
            owned = self._consumer.assignment() & wanted.keys()
            self._consumer.pause(*owned)
            self._fresh |= owned

    def pause(self) -> None:
        """Pause all partitions, those that are assigned later included."""
        with self._lock:
            self._paused = True
            self._consumer.pause(*self._consumer.assignment())

    def resume(self) -> None:
        """Resume all partitions; one that is not settled delivers as soon as it is."""
        with self._lock:
            self._paused = False
            self._consumer.resume(*(self._consumer.assignment() - self._fresh))

    def settle(self, limit_ms: int) -> None:
        """Look up the positions of new partitions, and let them deliver. Asks brokers: may raise KafkaError."""
        with self._lock:
            fresh = self._fresh & self._consumer.assignment()
            unknown = fresh - self._sought.keys() - self._positions.keys()
        if not fresh:
            return
        oldest = self._consumer.beginning_offsets(list(fresh), timeout_ms=limit_ms)
        found = {p: self._consumer.position(p, timeout_ms=limit_ms) for p in unknown}
        if None not in found.values():
            self._place(oldest, found)

    def on_partitions_revoked(self, revoked: Collection[Partition]) -> None:
        """Called as a rebalance begins. Positions are kept: partitions that come straight back go on from them."""

    def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        """Called as a rebalance ends; positions of partitions that did not come back are void."""
        with self._lock:
            self._consumer.pause(*assigned)
            kept = self._consumer.assignment()
            self._fresh = (self._fresh | set(assigned)) & kept
            self._positions = {p: n for p, n in self._positions.items() if p in kept}

    def on_partitions_lost(self, lost: Collection[Any]) -> None:
        """Called when the group went on without us: another member may have read on from our positions."""
        with self._lock:
            self._positions.clear()

    def _place(self, oldest: Mapping[Any, int], found: Mapping[Any, int]) -> None:
        with self._lock:
            for p in oldest.keys() & self._fresh & self._consumer.assignment():
                wanted = self._sought.pop(p, self._positions.get(p, found.get(p, 0)))
                self._positions[p] = max(wanted, oldest[p])
                self._consumer.seek(p, self._positions[p])
                self._fresh.discard(p)
                if not self._paused:
                    self._consumer.resume(p)
