"""Reader by kafka-python, for records that librdkafka cannot read: a corrupt batch, a compression unknown to it."""

from __future__ import annotations

from collections.abc import Callable

from kafka import TopicPartition

from tta_agent.core.types import RawRecord
from tta_agent.stream.kafka.python_client import KafkaPythonClient


class OtherReader:
    """Reader of single partitions. What it cannot read either becomes one record that says so.

    Args:
        open_client: opens a client without a group; not before something is read.
    """

    def __init__(self, open_client: Callable[[], KafkaPythonClient]) -> None:
        self._open_client = open_client
        self._client: KafkaPythonClient | None = None

    def read(self, partition: TopicPartition, offset: int, timeout_s: float, most: int) -> list[RawRecord]:
        """Records from an offset on."""
        client = self._client = self._client or self._open_client()
        client.assign([partition])
        client.seek(partition, offset)
        return client.records(timeout_s, most)

    def close(self) -> None:
        """Free the client."""
        if self._client is not None:
            self._client.close(timeout_ms=0)
