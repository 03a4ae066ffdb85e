"""Client of a consumer group by confluent-kafka."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import OffsetSpec
from kafka import ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError as PythonError
from kafka.errors import KafkaTimeoutError

from tta_agent.core.types import RawRecord
from tta_agent.stream.kafka.cause import LastCause
from tta_agent.stream.kafka.client import is_transient
from tta_agent.stream.kafka.confluent.errors import UNREADABLE, as_python_error, translated_errors
from tta_agent.stream.kafka.confluent.fetching import Fetching
from tta_agent.stream.kafka.confluent.messages import MessageQueue, raw_record
from tta_agent.stream.kafka.confluent.other_reader import OtherReader
from tta_agent.stream.kafka.confluent.topic_watch import TopicWatch

HELD_BYTES = 4 << 20  # while a commit is waited for
ANSWER_S = 0.2  # wait for facts about topics, before the next poll goes on waiting
INTERNAL = {"__consumer_offsets", "__transaction_state", "__share_group_state"}
log = logging.getLogger("kafka.librdkafka")


class ConfluentClient:
    """Consumer of confluent-kafka; implements `GroupClient`.

    Args:
        config: options of librdkafka.
        max_poll_records: most records of one poll.
        watch: what asks for topics; it is started.
        reader: of records that librdkafka cannot read.

    Raises:
        KafkaException: an option is impossible.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        max_poll_records: int,
        watch: TopicWatch,
        reader: OtherReader,
    ) -> None:
        self.max_poll_records = max_poll_records
        self._consumer: Any = Consumer({**config, "on_commit": self._on_commit}, logger=log)
        self._fetching, self._messages = Fetching(self._consumer), MessageQueue(self._consumer)
        self._watch, self._reader = watch, reader
        self._listener: Any = None
        self._pattern: re.Pattern[str] | None = None
        self._names: frozenset[str] | None = None  # of all topics, when the pattern was last asked
        self._subscribed: frozenset[str] = frozenset()
        self._heard_s = self._assigned_s = 0.0
        self._sent = self._answered = 0  # commits
        self._failure: PythonError | None = None
        self._cause = LastCause().__enter__()
        watch.start()

    @property
    def cause(self) -> str:
        """See `GroupClient`."""
        return self._cause.text

    def join(self, topics: Sequence[str], pattern: str | None, listener: ConsumerRebalanceListener) -> None:
        """See `GroupClient`. The library's own regular expressions know no lookahead."""
        self._listener = listener
        self._pattern = None if pattern is None else re.compile(pattern)
        if pattern is None:
            self._subscribe(frozenset(topics))
        else:
            self._watch.follow(frozenset(), names=True)

    def records(self, timeout_s: float, max_records: int) -> list[RawRecord]:
        """See `GroupClient`."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        with translated_errors():
            self._look_for_topics()
            if self._fetching.begin_anew():
                self._messages.clear()
            self._fetching.apply_pauses()
            if self._fetching.resting:
                self._messages.rest(timeout_s)
                return []
            if self._fetching.unreadable and (found := self._read_otherwise(timeout_s, max_records)):
                return found
            found = self._read(self._messages.take(timeout_s, max_records))
        self._fetching.delivered(found)
        return found

    def heard(self) -> bool:
        """See `GroupClient`. Since it was asked last."""
        before_s, self._heard_s = self._heard_s, self._watch.heard_s
        return self._heard_s > before_s

    def topics(self) -> Collection[str]:
        """See `GroupClient`."""
        return self._watch.names

    def topic_id(self, topic: str) -> str | None:
        """See `GroupClient`. As it was when the group gave us its partitions, or later."""
        if not self._watch.wait_for(self._assigned_s, ANSWER_S):
            raise KafkaTimeoutError("the brokers say nothing about topics")
        found = self._watch.seen.get(topic)
        return found.id if found else None

    def partitions_for_topic(self, topic: str) -> Collection[int] | None:
        """See `GroupClient`."""
        found = self._watch.seen.get(topic)
        return range(found.partitions) if found else None

    def assignment(self) -> set[TopicPartition]:
        """See `GroupClient`."""
        return set(self._fetching.owned)

    def pause(self, *partitions: TopicPartition) -> None:
        """See `GroupClient`."""
        self._fetching.pause(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        """See `GroupClient`."""
        self._fetching.resume(partitions)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """See `GroupClient`."""
        self._fetching.seek(partition, offset)

    def beginning_offsets(
        self, partitions: Sequence[TopicPartition], timeout_ms: int
    ) -> Mapping[TopicPartition, int]:
        """See `GroupClient`."""
        return self._watch.offsets(partitions, OffsetSpec.earliest(), timeout_ms / 1000)

    def end_offsets(
        self, partitions: Sequence[TopicPartition], timeout_ms: int
    ) -> Mapping[TopicPartition, int]:
        """See `GroupClient`."""
        return self._watch.offsets(partitions, OffsetSpec.latest(), timeout_ms / 1000)

    def stored(self, partitions: Sequence[TopicPartition], timeout_ms: int) -> Mapping[TopicPartition, Any]:
        """See `GroupClient`."""
        with translated_errors():
            found = self._consumer.committed([Place(*p) for p in partitions], timeout=timeout_ms / 1000)
            for place in found:
                if place.error is not None:
                    raise KafkaException(place.error)
        return {TopicPartition(p.topic, p.partition): p for p in found}

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata], timeout_ms: int) -> None:
        """See `GroupClient`. What is not answered in time may be stored all the same."""
        until_s = time.monotonic() + timeout_ms / 1000
        with translated_errors():
            places = [Place(*p, o.offset, metadata=o.metadata) for p, o in offsets.items()]
            self._consumer.commit(offsets=places, asynchronous=True)
            self._sent += 1
            while self._answered < self._sent:
                if time.monotonic() > until_s or self._messages.held_bytes > HELD_BYTES:
                    raise KafkaTimeoutError("the commit is not answered yet")
                self._messages.serve(0.02)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self, timeout_ms: int) -> None:
        """See `GroupClient`. Goes on in a thread where the brokers are away."""
        self._watch.end()
        self._reader.close()
        leaving = threading.Thread(target=self._leave, name="kafka-leave", daemon=True)
        leaving.start()
        leaving.join(timeout_ms / 1000)
        self._cause.__exit__(None, None, None)

    def _leave(self) -> None:
        with contextlib.suppress(KafkaException, RuntimeError):
            self._consumer.close()

    def _subscribe(self, topics: frozenset[str]) -> None:
        self._subscribed = topics
        on = {"on_assign": self._on_assign, "on_revoke": self._on_revoke, "on_lost": self._on_lost}
        self._consumer.subscribe(sorted(topics), **on) if topics else self._consumer.unsubscribe()
        self._watch.follow(topics, names=self._pattern is not None)

    def _look_for_topics(self) -> None:
        """Subscribe anew where other topics match the regular expression than before."""
        if self._pattern is None or self._watch.names is self._names:
            return
        self._names = self._watch.names
        found = frozenset(t for t in self._names - INTERNAL if self._pattern.match(t))
        if found != self._subscribed:
            self._subscribe(found)

    def _on_assign(self, _: Any, places: Sequence[Place]) -> None:
        self._assigned_s = time.monotonic()
        self._watch.ask()
        self._messages.clear()
        owned = {TopicPartition(p.topic, p.partition) for p in places}
        self._fetching.assigned(owned)
        self._listener.on_partitions_assigned(owned)

    def _on_revoke(self, _: Any, places: Sequence[Place]) -> None:
        self._messages.clear()
        self._fetching.revoked()

    def _on_lost(self, _: Any, places: Sequence[Place]) -> None:
        self._messages.clear()
        self._listener.on_partitions_lost(self._fetching.owned)
        self._fetching.lost()

    def _on_commit(self, error: KafkaError | None, places: Sequence[Place]) -> None:
        self._answered += 1
        failed = [error, *(place.error for place in places)]
        self._failure = next((as_python_error(one) for one in failed if one is not None), self._failure)

    def _read(self, messages: Sequence[Message]) -> list[RawRecord]:
        found, live = [], self._fetching.live
        for message in messages:
            error = message.error()
            if error is not None:
                self._on_error(message, error)
            elif (message.topic(), message.partition()) in live:
                found.append(raw_record(message))
        return found

    def _on_error(self, message: Message, error: KafkaError) -> None:
        told = as_python_error(error)
        if error.code() in UNREADABLE and message.topic() is not None:
            self._fetching.cannot_read(TopicPartition(message.topic(), message.partition()))
        elif not is_transient(told):
            self._failure = told  # once what came with it has been handed out
        log.info("%s [%s]: %s", message.topic(), message.partition(), error.str())

    def _read_otherwise(self, timeout_s: float, most: int) -> list[RawRecord]:
        """Records by kafka-python, from the offset on at which the library has stumbled over some."""
        partition = self._fetching.unreadable[0]
        found = self._reader.read(partition, self._fetching.next[partition], timeout_s, most)
        if found:
            self._fetching.seek(partition, found[-1].offset + 1)
        return found
