"""Records that Kafka's client cannot read: each is told, and what stands beside them is read."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from crc32c import crc32c

from tests.conftest import require_or_skip
from tests.parts.kafka.broker import await_metadata, broker, start, stop, unavailable
from tests.stream.test_consumers import IGNORE_SOCKETS, PARTITIONS, leaves_sockets, take
from tta_agent.core.errors import DecodeError
from tta_agent.core.types import RawRecord
from tta_agent.stream.codecs.auto import AutoCodec
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.stream.decoder import Decoder, dead_letter
from tta_agent.stream.kafka.consumer import KafkaStreamConsumer, KafkaStreamProducer, ensure_topics
from tta_agent.stream.kafka.group_client import ClientName

__all__ = ["leaves_sockets"]  # a fixture
pytestmark = pytest.mark.kafka


class Latin(str):
    """A header name that is written as another client may write it: not in UTF-8."""

    def encode(self, *_: object, **__: object) -> bytes:
        return b"\xff\xfename"


def test_a_header_name_that_is_no_utf_8_stops_no_partition(kafka: str, client: ClientName) -> None:
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
    consumer = KafkaStreamConsumer(kafka, [topic], topic, start="earliest", client=client)
    alone = client == "confluent-kafka"  # which reads what stands in the same batch behind such a record
    found = take(consumer, 92 if alone else 88)
    assert not consumer.poll(0.3) and consumer.lag() == 0
    consumer.close()
    values = [record.value for record in found]
    assert [values.count(value) for value in (b"before", b"ok", b"after")] == [40, 4, 40]
    assert values.count(b"lost with it") == (4 if alone else 0)
    bad = [record for record in found if record.value == (b"bad" if alone else None)]
    assert len(bad) == 4
    told(
        bad[0], "name of a header cannot be read" if alone else "cannot be read: [Error 2] CorruptRecordError"
    )


def told(record: RawRecord, why: str) -> None:
    decoder = Decoder(AutoCodec({"cloudevents": CloudEvents()}), None, None)
    assert decoder.read([record]) == []
    assert decoder.refused == {"unreadable": 1}
    assert why in decoder.first
    letter = dead_letter(record, DecodeError("unreadable", decoder.first))
    assert why.encode() in dict(letter[2])["tta_unreadable"]


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
def test_every_compression_of_kafka_is_read(kafka: str, client: ClientName, codec: str | None) -> None:
    topic = f"t-{uuid.uuid4().hex[:8]}"
    ensure_topics(kafka, [topic], PARTITIONS)
    producer = KafkaStreamProducer(kafka, client_options={"compression_type": codec})
    for i in range(20):
        producer.send(topic, b"%d" % i, b"v" * 1000)
    producer.close()
    consumer = KafkaStreamConsumer(kafka, [topic], topic, start="earliest", client=client)
    assert {record.value for record in take(consumer, 20)} == {b"v" * 1000}
    consumer.close()


HEAD = 61  # bytes of a batch before its records
CRC, ATTRIBUTES = 17, 21  # places in it
KINDS = ("crc", "codec", "compressed")


def damaged(batch: bytearray, how: str) -> None:
    """Damage a batch of records, as a disk or another client may."""
    if how == "crc":
        batch[-3] ^= 0xFF
        return
    if how == "codec":
        batch[ATTRIBUTES + 1] |= 7  # no compression has that number
    else:
        batch[HEAD + 8 : HEAD + 24] = b"\xff" * 16
    struct.pack_into(">I", batch, CRC, crc32c(bytes(batch[ATTRIBUTES:])))


def damage(segment: Path, how: str) -> range:
    """Damage the batch with offset 12 in a segment of a broker; the offsets in it."""
    data, at = bytearray(segment.read_bytes()), 0
    while at < len(data):
        first, length = struct.unpack_from(">qi", data, at)
        last = first + struct.unpack_from(">i", data, at + 23)[0]
        if first <= 12 <= last:
            batch = data[at : at + 12 + length]
            damaged(batch, how)
            segment.write_bytes(data[:at] + batch + data[at + 12 + length :])
            return range(first, last + 1)
        at += 12 + length
    raise AssertionError("no such batch")


@pytest.fixture(scope="module")
def damaged_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, range]]]:
    """A broker with a damaged batch in each of three topics, and the offsets in these."""
    require_or_skip("kafka", unavailable())
    folder = tmp_path_factory.mktemp("damaged")
    with broker(folder) as address:
        ensure_topics(address, KINDS, 1)
        producer = KafkaStreamProducer(address)
        for i in range(30):
            for topic in KINDS:
                producer.send(topic, b"%d" % i, b"%d " % i * 100)
            if i % 5 == 4:
                producer.flush()
        producer.close()
    with restarted(folder, address) as process:
        process.terminate()  # in order: its next start does not look for damage
        process.wait(60)
    lost = {kind: damage(folder / "data" / f"{kind}-0" / f"{0:020}.log", kind) for kind in KINDS}
    with restarted(folder, address):
        yield address, lost


@contextlib.contextmanager
def restarted(folder: Path, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """The broker of that folder once more."""
    process = start(folder / "server.properties", folder)
    try:
        await_metadata(address, process, folder / "broker.log", {})
        yield process
    finally:
        stop(process)


@pytest.mark.slow
@IGNORE_SOCKETS
@pytest.mark.usefixtures("leaves_sockets")
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_batch_is_one_dead_letter_and_reading_goes_on(
    damaged_log: tuple[str, dict[str, range]], kind: str, client: ClientName
) -> None:
    address, lost = damaged_log
    consumer = KafkaStreamConsumer(address, [kind], f"{kind}-{client}", start="earliest", client=client)
    found = take(consumer, 30 - len(lost[kind]) + 1)
    assert not consumer.poll(0.5) and consumer.lag() == 0
    consumer.close()
    assert [raw.offset for raw in found if raw.value] == [n for n in range(30) if n not in lost[kind]]
    (letter,) = [raw for raw in found if not raw.value]
    assert letter.offset == lost[kind][-1]
    told(letter, f"records {lost[kind][0]} to {lost[kind][-1]} cannot be read")
