"""Consumer of Apache Kafka: a member of a consumer group that commits by hand."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from kafka import TopicPartition
from kafka.errors import KafkaError

from tta_agent.core.errors import ConfigError, StreamError
from tta_agent.core.types import Partition, Positions, RawRecord
from tta_agent.stream.kafka.cause import unreachable
from tta_agent.stream.kafka.client import CONNECT_TIMEOUT_S, connect, ensure_topics, is_transient
from tta_agent.stream.kafka.group_client import ClientName, GroupClient
from tta_agent.stream.kafka.places import Places
from tta_agent.stream.kafka.poll_size import PollSize
from tta_agent.stream.kafka.producer import KafkaStreamProducer
from tta_agent.stream.kafka.progress import Progress
from tta_agent.stream.kafka.python_client import KafkaPythonClient

__all__ = ["KafkaStreamConsumer", "KafkaStreamProducer", "ensure_topics"]

SLICE_S = 0.2  # how soon a poll that waits looks after newly assigned partitions
CALL_LIMIT_MS = 5000  # for commit and close
LAG_LIMIT_MS = 1000
ASK_EVERY_S = 0.5  # whether anything has come in
FETCH_BYTES = 16 << 20
PARTITION_BYTES = 8 << 20  # a record of images easily has 600 KB


class KafkaStreamConsumer:
    """One member of a Kafka consumer group; implements `StreamConsumer`.

    The client's default assignment by ranges is kept: equal numbers of equally split topics fall to the same
    member, so that a label is read where its record was.

    Args:
        bootstrap_servers: host:port, several separated by commas.
        topics: names of topics to read.
        group: consumer group; its members share the partitions, and its committed offsets outlive them.
        pattern: regular expression of whole names; then these topics are read, also those that are made later, and
            `topics` must be among them.
        start: where to begin without a committed offset: "latest" or "earliest".
        max_records: most records of one poll; it also ends at about 4 MiB.
        fetch_bytes: most bytes of one answer of a broker. The client holds two of them for each broker: the one
            that is handed out, and the next.
        connect_timeout_s: how long to try to reach a broker at first.
        silence_limit_s: how long the brokers may be silent later before poll raises.
        client_options: options in kafka-python's names, such as the security ones; they win over ours.
        client: library that reads.

    Raises:
        StreamError: no broker answers.
        ConfigError: an option is unknown or impossible, or the library is not installed.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topics: Sequence[str],
        group: str,
        *,
        pattern: str | None = None,
        start: Literal["latest", "earliest"] = "latest",
        max_records: int = 500,
        fetch_bytes: int = FETCH_BYTES,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        silence_limit_s: float = 60.0,
        client_options: Mapping[str, object] | None = None,
        client: ClientName = "kafka-python",
    ) -> None:
        own = {"group_id": group, "auto_offset_reset": "earliest", "max_poll_records": max_records}
        own |= {
            "fetch_max_bytes": fetch_bytes,
            "max_partition_fetch_bytes": min(fetch_bytes, PARTITION_BYTES),
        }
        self._servers = bootstrap_servers
        self._silence_limit_s = silence_limit_s
        self._consumer = _open(client, bootstrap_servers, own, client_options or {}, connect_timeout_s)
        self._places = Places(self._consumer, start)
        self._size = PollSize(self._consumer.max_poll_records)
        self._progress = Progress()
        self._heard_s = self._asked_s = time.monotonic()
        self._last_lag = 0
        self._closed = False
        if pattern is not None:
            self._places.there = set(self._consumer.topics())
        self._consumer.join(topics, pattern, self._places)

    def poll(self, timeout_s: float) -> Sequence[RawRecord]:
        """See `StreamConsumer`. Raises StreamError once the brokers have been silent for silence_limit_s.

        After a rebalance it may take two slices longer, so that also very short polls get their partitions.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            with self._getting_over():
                self._places.settle(int(SLICE_S * 1000))
            left_s = max(0.0, deadline_s - time.monotonic())
            records = self._poll_slice(min(left_s, SLICE_S))
            self._listen(bool(records))
            if records or time.monotonic() >= deadline_s:
                return records

    def pause(self) -> None:
        """See `StreamConsumer`."""
        self._places.pause()

    def resume(self) -> None:
        """See `StreamConsumer`."""
        self._places.resume()

    def lag(self) -> int:
        """See `StreamConsumer`. The last known lag while the brokers do not answer.

        A partition that has had records for a minute and delivered none is sought anew.
        """
        positions = self._places.settled()
        with self._getting_over():
            ends = self._consumer.end_offsets(list(positions), timeout_ms=LAG_LIMIT_MS)
            self._last_lag = sum(max(0, ends[p] - n) for p, n in positions.items())
            self._places.again(positions, ends, self._progress)
        return self._last_lag

    def assignment(self) -> Sequence[Partition]:
        """See `StreamConsumer`. Those of which it is settled where to read on."""
        return sorted((p.topic, p.partition) for p in self._places.settled())

    def positions(self) -> Positions:
        """See `StreamConsumer`."""
        return {(p.topic, p.partition): n for p, n in self._places.settled().items()}

    def topic_ids(self) -> Mapping[str, str]:
        """See `StreamConsumer`. Empty where the brokers are older than Kafka 2.8."""
        return self._places.topic_ids()

    def seek(self, positions: Positions, topic_ids: Mapping[str, str] | None = None) -> None:
        """See `StreamConsumer`. A position that is no longer kept becomes the oldest one that is."""
        self._places.seek(positions, topic_ids or {})

    def commit(self, positions: Positions) -> None:
        """See `StreamConsumer`. Dropped while the group is rearranged or brokers are away: the next one follows."""
        owned = self._places.settled()
        wanted = {TopicPartition(*p): n for p, n in positions.items()}
        offsets = {p: self._places.offset(p, n) for p, n in wanted.items() if p in owned}
        if offsets:
            with self._getting_over():
                self._consumer.commit(offsets, timeout_ms=CALL_LIMIT_MS)

    def close(self) -> None:
        """See `StreamConsumer`."""
        if self._closed:
            return
        self._closed = True
        with self._getting_over():
            self._consumer.close(timeout_ms=CALL_LIMIT_MS)

    def _poll_slice(self, timeout_s: float) -> list[RawRecord]:
        started_s = time.monotonic()
        with self._getting_over():
            records = self._consumer.records(timeout_s, self._size.records())
            self._places.delivered({TopicPartition(r.topic, r.partition): r.offset + 1 for r in records})
            self._size.polled(records)
            return records
        # An error that comes back at once must not make us spin.
        time.sleep(max(0.0, started_s + timeout_s - time.monotonic()))
        return []

    def _listen(self, heard: bool) -> None:
        """Raise StreamError once the brokers have been silent for too long."""
        now_s = time.monotonic()
        if heard:
            self._heard_s = now_s
        if now_s - max(self._heard_s, self._asked_s) < ASK_EVERY_S:
            return
        self._asked_s = now_s
        if self._consumer.heard():
            self._heard_s = now_s
        silent_s = now_s - self._heard_s
        if silent_s > self._silence_limit_s:
            raise StreamError(unreachable(self._servers, self._consumer.cause, silent_s))

    @contextlib.contextmanager
    def _getting_over(self) -> Iterator[None]:
        """Passes over errors that the client recovers from by itself."""
        try:
            yield
        except KafkaError as error:
            if not is_transient(error):
                message = f"Kafka at {self._servers} refuses: {error}\n{self._consumer.cause}"
                raise StreamError(message.strip()) from error


def _open(
    client: ClientName,
    bootstrap_servers: str,
    own: Mapping[str, object],
    client_options: Mapping[str, object],
    connect_timeout_s: float,
) -> GroupClient:
    if client == "kafka-python":
        return connect(KafkaPythonClient, bootstrap_servers, own, client_options, connect_timeout_s)
    try:
        from tta_agent.stream.kafka.confluent.connect import connect_confluent
    except ImportError as error:
        told = f"confluent-kafka cannot be imported ({error})\npip install 'tta-agent[fast]'"
        raise ConfigError(told) from error
    return connect_confluent(bootstrap_servers, own, client_options, connect_timeout_s)
