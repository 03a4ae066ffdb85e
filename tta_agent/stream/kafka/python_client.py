"""Client of a consumer group by kafka-python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition

from tta_agent.core.types import RawRecord
from tta_agent.stream.kafka.cause import LastCause
from tta_agent.stream.kafka.tolerant import tolerate


class KafkaPythonClient(KafkaConsumer):  # type: ignore[misc]
    """Consumer of kafka-python; implements `GroupClient`."""

    def __init__(self, **config: object) -> None:
        super().__init__(**config)
        tolerate(self)
        self._cause = LastCause().__enter__()
        self.max_poll_records: int = self.config["max_poll_records"]

    @property
    def cause(self) -> str:
        """See `GroupClient`."""
        return self._cause.text

    def join(self, topics: Sequence[str], pattern: str | None, listener: ConsumerRebalanceListener) -> None:
        """See `GroupClient`."""
        chosen = {"topics": list(topics)} if pattern is None else {"pattern": pattern}
        self.subscribe(**chosen, listener=listener)

    def records(self, timeout_s: float, max_records: int) -> list[RawRecord]:
        """See `GroupClient`."""
        self._keep_joining()
        batches = self.poll(timeout_ms=int(timeout_s * 1000), max_records=max_records)
        return [_record(record) for batch in batches.values() for record in batch]

    def heard(self) -> bool:
        """See `GroupClient`. The metrics that it asks cost as much as 50 records.

        The client never says that its brokers are gone; but then no bytes come in, not even heartbeats.
        """
        metrics = self.metrics().get("consumer-metrics", {})
        return bool(metrics.get("incoming-byte-rate", 1.0) > 0)

    def topic_id(self, topic: str) -> str | None:
        """See `GroupClient`."""
        found = self._cluster.topic_id(topic)
        return str(found) if found and found.int else None

    def stored(self, partitions: Sequence[TopicPartition], timeout_ms: int) -> Mapping[TopicPartition, Any]:
        """See `GroupClient`."""
        return dict(self._coordinator.fetch_committed_offsets(partitions, timeout_ms=timeout_ms))

    def close(self, timeout_ms: int | None = None) -> None:
        """See `GroupClient`."""
        try:
            super().close(timeout_ms=timeout_ms)
        finally:
            self._cause.__exit__(None, None, None)

    def _keep_joining(self) -> None:
        """Take up a join that outlasted the previous poll.

        kafka-python 3.0.12 forgets it where the reason was new metadata, which it has noted by then: it would
        stay without partitions and heartbeats for good, and say nothing.
        """
        if self._coordinator.rejoining:
            self._coordinator.request_rejoin()


def _record(record: Any) -> RawRecord:
    place = (record.topic, record.partition, record.offset, record.timestamp)
    headers = tuple((name, value or b"") for name, value in record.headers)
    return RawRecord(*place, record.key, record.value, headers)
