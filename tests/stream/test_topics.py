"""Several topics, and topics by a regular expression: read from where, dead letters to where, and what is refused."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from tests.parts.serving import eventually
from tta_agent.core.errors import ConfigError, DecodeError
from tta_agent.core.stream_protocols import StreamConsumer
from tta_agent.core.types import RawRecord
from tta_agent.settings import env
from tta_agent.settings.schema import Settings
from tta_agent.stream import factory, topic_names
from tta_agent.stream.decoder import Decoder
from tta_agent.stream.kafka.consumer import KafkaStreamProducer


def settings(topic: str, **stream: object) -> Settings:
    return env.load(stream={"topic": topic, **stream})


@pytest.mark.parametrize("topic", ["a", "a,b", " a , b", r"^site\.[a-z]+"])
def test_names_and_regular_expressions_are_taken(topic: str) -> None:
    assert settings(topic).stream.topic == topic.replace(" ", "")


@pytest.mark.parametrize(
    ("topic", "told"),
    [
        ("a,a", "different ones"),
        (",", "different ones"),
        ("a,b c", "letters"),
        ("^a(", "no regular expression"),
    ],
)
def test_others_are_refused(topic: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        settings(topic)


def test_what_the_agent_writes_is_never_read() -> None:
    s = settings(r"^site\..*", dead_letter_topic="site.dead", output="site.results")
    found = re.compile(topic_names.pattern(s, [s.stream.topic, "labels"]) or "")
    read = [t for t in ("site.a", "site.a.tta.dlq", "site.dead", "site.results", "labels", "labels2", "x.site.a")
            if found.match(t)]  # fmt: skip
    assert read == ["site.a", "labels"]
    assert topic_names.pattern(settings("a,b"), ["a,b"]) is None


def test_inferences_are_written_to_one_topic_only() -> None:
    assert topic_names.written(settings("a")) == "a"
    for several in ("a,b", "^a"):
        with pytest.raises(ConfigError, match="expected one name"):
            topic_names.written(settings(several))


def test_a_regular_expression_needs_kafka() -> None:
    with pytest.raises(ConfigError, match="needs Kafka"):
        factory.open_source(settings("^a"), ["^a"])


class Letters:
    """A producer that keeps topics."""

    def __init__(self) -> None:
        self.topics: list[str] = []

    def send(self, topic: str, *message: object) -> None:
        self.topics.append(topic)


class Unreadable:
    """A codec that reads nothing."""

    def recognises(self, raw: RawRecord) -> bool:
        return True

    def decode(self, raw: RawRecord, shape: object, classes: object) -> list[object]:
        raise DecodeError("no", "no")


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        ({"topic": "a"}, ["a.tta.dlq"] * 3),
        ({"topic": "a,b"}, ["a.tta.dlq", "b.tta.dlq", "a.tta.dlq"]),
        ({"topic": "^a"}, ["tta-agent.tta.dlq"] * 3),
        ({"topic": "a,b", "dead_letter_topic": "dead"}, ["dead"] * 3),
        ({"topic": "a,b", "dead_letter_topic": ""}, []),
    ],
)
def test_dead_letters_go_to_a_topic_beside_their_own(stream: dict[str, str], expected: list[str]) -> None:
    letters = Letters()
    found = topic_names.dead_letters(env.load(stream=stream))
    decoder = Decoder(Unreadable(), None, None, letters, found)  # type: ignore[arg-type]
    decoder.read(RawRecord(topic, 0, 0, 0, None, b"x") for topic in ("a", "b", "labels"))
    assert letters.topics == expected


@pytest.fixture
def name() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture
def producer(kafka: str) -> Iterator[KafkaStreamProducer]:
    with contextlib.closing(KafkaStreamProducer(kafka)) as opened:
        yield opened


def make(kafka: str, *topics: str) -> None:
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=kafka)) as admin:
        admin.create_topics({topic: {"num_partitions": 2} for topic in topics}, wait_for_metadata=True)


def put(producer: KafkaStreamProducer, topic: str, *values: bytes) -> None:
    for value in values:
        producer.send(topic, value, value)
    producer.flush()


def opened(kafka: str, tmp_path: Path, topic: str, **stream: object) -> StreamConsumer:
    s = settings(topic, bootstrap_servers=kafka, group=topic.strip("^").replace(",", "-")[:9], **stream)
    s = s.model_copy(update={"store": s.store.model_copy(update={"path": tmp_path})})
    return factory.open_source(s, [s.stream.topic, f"{topic.strip('^')[:9]}.labels"])


def read(consumer: StreamConsumer, count: int) -> set[tuple[str, bytes | None]]:
    found: list[RawRecord] = []
    eventually(lambda: len(found) >= count or found.extend(consumer.poll(0.2)), 30.0)
    found += consumer.poll(0.5)
    assert len(found) == count
    return {(raw.topic, raw.value) for raw in found}


@pytest.mark.kafka
def test_several_topics_are_read_each_from_where_it_was(
    kafka: str, tmp_path: Path, name: str, producer: KafkaStreamProducer, client: str
) -> None:
    one, two = f"{name}.1", f"{name}.2"
    make(kafka, one, two)
    put(producer, one, b"a", b"b")
    put(producer, two, b"c")
    consumer = opened(kafka, tmp_path, f"{one},{two}", start="earliest", client=client)
    assert read(consumer, 3) == {(one, b"a"), (one, b"b"), (two, b"c")}
    consumer.commit(consumer.positions())
    consumer.close()
    put(producer, two, b"d")
    with contextlib.closing(
        opened(kafka, tmp_path, f"{one},{two}", start="earliest", client=client)
    ) as consumer:
        assert read(consumer, 1) == {(two, b"d")}
        assert {topic for topic, _ in consumer.assignment()} == {one, two, f"{name}.labels"}


@pytest.mark.kafka
def test_topics_by_a_regular_expression_also_those_that_come_later(
    kafka: str, tmp_path: Path, name: str, producer: KafkaStreamProducer, client: str
) -> None:
    old, late = f"{name}.old", f"{name}.late"
    make(kafka, old, f"{old}.tta.dlq", f"x{name}.old")
    put(producer, old, b"before")
    with contextlib.closing(
        opened(kafka, tmp_path, f"^{name}\\..*", start="latest", client=client)
    ) as consumer:
        eventually(lambda: consumer.poll(0.2) or consumer.assignment(), 20.0)
        make(kafka, late)
        put(producer, late, b"first of it")  # before the consumer knows the topic
        put(producer, old, b"after")
        put(producer, f"{old}.tta.dlq", b"letter")
        assert read(consumer, 2) == {(late, b"first of it"), (old, b"after")}
