"""Client of a consumer group: the calls by which the agent's consumer uses kafka-python or confluent-kafka."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Protocol

from kafka import ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition

from tta_agent.core.types import RawRecord

ClientName = Literal["kafka-python", "confluent-kafka"]


class GroupClient(Protocol):
    """One member of a group. Its methods have the names and the meaning that they have in kafka-python.

    Nothing is delivered from a partition before it is sought. All methods may raise KafkaError, and none blocks for
    longer than it is told to.

    Attributes:
        max_poll_records: most records of one poll.
        cause: text of the latest failure of a connection.
    """

    max_poll_records: int

    @property
    def cause(self) -> str:
        """Text of the latest failure of a connection; empty where there was none."""

    def join(self, topics: Sequence[str], pattern: str | None, listener: ConsumerRebalanceListener) -> None:
        """Subscribe to topics, or to those whose whole names match a regular expression."""

    def records(self, timeout_s: float, max_records: int) -> list[RawRecord]:
        """Records in offset order per partition, as soon as there are any; keeps the membership alive."""

    def heard(self) -> bool:
        """Whether brokers have said anything within the last seconds."""

    def topics(self) -> Collection[str]:
        """Names of all topics that can be seen."""

    def topic_id(self, topic: str) -> str | None:
        """Identity of a topic; None where its brokers give none (before Kafka 2.8)."""

    def partitions_for_topic(self, topic: str) -> Collection[int] | None:
        """Numbers of the partitions of a topic."""

    def assignment(self) -> set[TopicPartition]:
        """Partitions that the group has given to this member."""

    def pause(self, *partitions: TopicPartition) -> None:
        """Deliver nothing from these partitions."""

    def resume(self, *partitions: TopicPartition) -> None:
        """Deliver again; no record is lost."""

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read on from there."""

    def beginning_offsets(
        self, partitions: Sequence[TopicPartition], timeout_ms: int
    ) -> Mapping[TopicPartition, int]:
        """Offsets of the oldest records that are kept."""

    def end_offsets(
        self, partitions: Sequence[TopicPartition], timeout_ms: int
    ) -> Mapping[TopicPartition, int]:
        """Offsets after the newest records."""

    def stored(self, partitions: Sequence[TopicPartition], timeout_ms: int) -> Mapping[TopicPartition, Any]:
        """Offsets, with their metadata, that the group has committed; also of other members' partitions."""

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata], timeout_ms: int) -> None:
        """Store offsets for the group."""

    def close(self, timeout_ms: int) -> None:
        """Leave the group."""
