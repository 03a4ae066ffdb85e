"""Topics as the brokers have them, asked every two seconds: librdkafka itself does not tell a topic's identity."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient, OffsetSpec
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from tta_agent.stream.kafka.confluent.errors import translated_errors

EVERY_S = 2.0
ANSWER_S = 10.0  # longest wait for an answer
NEVER_S = -math.inf
ABSENT = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_AUTHORIZATION_FAILED}
_64_BITS = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class SeenTopic:
    """A topic as a broker describes it: number of partitions, and identity, which old brokers do not give."""

    partitions: int
    id: str | None


class TopicWatch(threading.Thread):
    """Thread that asks for topics; nobody waits for its brokers.

    Args:
        admin: the client that it asks by.
        isolation: of the transactions that offsets are asked of.

    Attributes:
        names: all topics that can be seen, where they are wanted; else empty.
        seen: the topics that are followed, as far as they are there.
        heard_s: when a broker has answered last, by the monotonic clock.
        asked_s: when that was asked.
    """

    def __init__(self, admin: AdminClient, isolation: IsolationLevel) -> None:
        super().__init__(name="kafka-topics", daemon=True)
        self._admin: Any = admin
        self._isolation = isolation
        self._changed = threading.Condition()
        self._wanted: frozenset[str] = frozenset()
        self._all = self._asked = self._ended = False
        self.names: frozenset[str] = frozenset()
        self.seen: Mapping[str, SeenTopic] = {}
        self.heard_s = self.asked_s = NEVER_S

    def follow(self, topics: frozenset[str], *, names: bool) -> None:
        """Ask for these topics from now on, and for the names of all if wanted."""
        with self._changed:
            self._wanted, self._all = topics, names
        self.ask()

    def ask(self) -> None:
        """Ask at once."""
        with self._changed:
            self._asked = True
            self._changed.notify_all()

    def wait_for(self, asked_s: float, limit_s: float) -> bool:
        """Wait until something is answered that was asked no earlier than `asked_s`; whether it was."""
        with self._changed:
            if self.asked_s < asked_s:
                self._asked = True
                self._changed.notify_all()
            return self._changed.wait_for(lambda: self.asked_s >= asked_s, limit_s)

    def offsets(
        self, partitions: Sequence[TopicPartition], spec: OffsetSpec, limit_s: float
    ) -> dict[TopicPartition, int]:
        """Ask where partitions begin or end.

        Raises:
            KafkaError: of kafka-python; no answer in time, or another one.
        """
        if not partitions:
            return {}
        with translated_errors():
            places = {Place(*p): spec for p in partitions}
            asked = self._admin.list_offsets(
                places, isolation_level=self._isolation, request_timeout=ANSWER_S
            )
            if wait(asked.values(), limit_s).not_done:
                raise KafkaTimeoutError("the brokers do not say where partitions begin or end")
            return {TopicPartition(p.topic, p.partition): f.result().offset for p, f in asked.items()}

    def end(self) -> None:
        """End soon. The client is freed by the thread: that may wait for brokers."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def run(self) -> None:
        """Ask until the end."""
        while not self._ended:
            with self._changed:
                self._asked, wanted, every = False, self._wanted, self._all
            began_s = time.monotonic()
            with contextlib.suppress(KafkaException):  # the brokers are away, which others notice
                self._take(began_s, *self._look(wanted, every))
            self._rest()
        self._admin = None

    def _rest(self) -> None:
        self._admin.poll(0)  # new tokens of OAUTHBEARER
        with self._changed:
            self._changed.wait_for(lambda: self._asked or self._ended, EVERY_S)

    def _take(self, asked_s: float, names: frozenset[str], seen: Mapping[str, SeenTopic]) -> None:
        with self._changed:
            self.names, self.seen, self.asked_s = names, seen, asked_s
            self.heard_s = time.monotonic()
            self._changed.notify_all()

    def _look(self, wanted: frozenset[str], every: bool) -> tuple[frozenset[str], Mapping[str, SeenTopic]]:
        names: frozenset[str] = frozenset()
        if every or not wanted:
            names = frozenset(self._admin.list_topics(timeout=ANSWER_S).topics)
        if not wanted:
            return names, {}
        asked = self._admin.describe_topics(TopicCollection(sorted(wanted)), request_timeout=ANSWER_S)
        found = {topic: _described(future) for topic, future in asked.items()}
        return names, {topic: seen for topic, seen in found.items() if seen}


def _described(future: Any) -> SeenTopic | None:
    try:
        found = future.result()
    except KafkaException as error:
        if error.args[0].code() in ABSENT:
            return None
        raise
    return SeenTopic(len(found.partitions), _identity(found.topic_id))


def _identity(found: Any) -> str | None:
    """The identity as kafka-python writes it: checkpoints hold it, whichever client made them."""
    if found is None:
        return None
    high, low = (
        n & _64_BITS for n in (found.get_most_significant_bits(), found.get_least_significant_bits())
    )
    return str(UUID(int=high << 64 | low)) if high or low else None
