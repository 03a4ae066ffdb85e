"""Records that Kafka's client cannot read: each is told, and what stands beside them is read."""

from __future__ import annotations

import uuid

import pytest

from tests.stream.test_consumers import PARTITIONS, take
from tta_agent.core.errors import DecodeError
from tta_agent.core.types import RawRecord
from tta_agent.stream.codecs.auto import AutoCodec
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.stream.decoder import Decoder, dead_letter
from tta_agent.stream.kafka.consumer import KafkaStreamConsumer, KafkaStreamProducer, ensure_topics

pytestmark = pytest.mark.kafka


class Latin(str):
    """A header name that is written as another client may write it: not in UTF-8."""

    def encode(self, *_: object, **__: object) -> bytes:
        return b"\xff\xfename"


def test_a_header_name_that_is_no_utf_8_stops_no_partition(kafka: str) -> None:
    topic = f"t-{uuid.uuid4().hex[:8]}"
    ensure_topics(kafka, [topic], PARTITIONS)
    producer = KafkaStreamProducer(kafka)
    for i in range(40):
        producer.send(topic, b"%d" % i, b"before")
    producer.flush()
    for i in range(4):
        producer.send(topic, b"%d" % i, b"ok")
        producer.send(topic, b"%d" % i, b"bad", ((Latin("x"), b"1"),))
        producer.send(topic, b"%d" % i, b"lost with it")
        producer.flush()
    for i in range(40):
        producer.send(topic, b"%d" % i, b"after")
    producer.close()
    consumer = KafkaStreamConsumer(kafka, [topic], topic, start="earliest")
    found = take(consumer, 88)
    assert not consumer.poll(0.3) and consumer.lag() == 0
    consumer.close()
    values = [record.value for record in found]
    assert [values.count(value) for value in (b"before", b"ok", b"after", None)] == [40, 4, 40, 4]
    told(next(record for record in found if record.value is None))


def told(record: RawRecord) -> None:
    decoder = Decoder(AutoCodec({"cloudevents": CloudEvents()}), None, None)
    assert decoder.read([record]) == []
    assert decoder.refused == {"unreadable": 1}
    assert "cannot be read: [Error 2] CorruptRecordError" in decoder.first
    letter = dead_letter(record, DecodeError("unreadable", decoder.first))
    assert dict(letter[2])["tta_unreadable"].startswith(b"records ")


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
def test_every_compression_of_kafka_is_read(kafka: str, codec: str | None) -> None:
    topic = f"t-{uuid.uuid4().hex[:8]}"
    ensure_topics(kafka, [topic], PARTITIONS)
    producer = KafkaStreamProducer(kafka, client_options={"compression_type": codec})
    for i in range(20):
        producer.send(topic, b"%d" % i, b"v" * 1000)
    producer.close()
    consumer = KafkaStreamConsumer(kafka, [topic], topic, start="earliest")
    assert {record.value for record in take(consumer, 20)} == {b"v" * 1000}
    consumer.close()
