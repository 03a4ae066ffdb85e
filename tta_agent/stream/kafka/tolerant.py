"""Records that kafka-python cannot read, such as those of a batch that has been damaged, stop no partition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecord

from tta_agent.stream.decoder import UNREADABLE


def tolerate(consumer: Any) -> None:
    """Have a consumer hand out one record for those of a batch that cannot be read, with the reason in a header.

    The client would raise, and then turn in circles. One producer writes a batch: nobody else's records are in there.
    """
    consumer._fetcher.PartitionRecords = _PartitionRecords


class _PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    def _unpack_records(self, tp: Any, records: Any, *deserializers: Any) -> Any:
        return super()._unpack_records(tp, _Batches(records), *deserializers)


class _Batches:
    def __init__(self, records: Any) -> None:
        self._records = records

    def next_batch(self) -> Any:
        batch = self._records.next_batch()
        return None if batch is None else _Batch(batch)


class _Batch:
    """A batch of Kafka's client that iterates to its end whatever is in there."""

    def __init__(self, batch: Any) -> None:
        self._batch, self._sound = batch, True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def validate_crc(self) -> bool:
        """True: a batch that fails is told when its records are asked for, where the client would raise for good."""
        self._sound = self._batch.validate_crc()
        return True

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        done = self._batch.base_offset - 1
        try:
            if not self._sound:
                raise CorruptRecordError("failed crc check")
            for record in self._batch:
                yield record
                done = record.offset
        except Exception as error:
            last = max(getattr(self._batch, "last_offset", 0), done + 1)
            told = f"records {done + 1} to {last} cannot be read: {error}"
            headers = [(UNREADABLE, told.encode(errors="backslashreplace"))]
            yield DefaultRecord(0, last, -1, 0, None, None, headers)
