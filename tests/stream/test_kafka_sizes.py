"""Records and topics that a broker with its default limits refuses: nothing else is lost with them."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka import KafkaAdminClient

from tests.parts.kafka.broker import broker, unavailable
from tests.parts.serving import eventually
from tta_agent.core.errors import MessageTooLarge, StreamError
from tta_agent.core.types import RawRecord
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.stream.kafka import limits
from tta_agent.stream.kafka.consumer import KafkaStreamConsumer, KafkaStreamProducer, ensure_topics
from tta_agent.stream.kafka.group_client import ClientName
from tta_agent.stream.outbox import Outbox
from tta_agent.tap import Tap

pytestmark = pytest.mark.kafka
RANDOM = np.random.default_rng(0)


def noise(size: int) -> bytes:
    return RANDOM.bytes(size)


@pytest.fixture
def topic() -> str:
    return f"sizes-{uuid.uuid4().hex[:8]}"


def make(address: str, topic: str, **configs: int) -> None:
    admin = KafkaAdminClient(bootstrap_servers=address)
    named = {name.replace("_", "."): str(value) for name, value in configs.items()}
    admin.create_topics({topic: {"num_partitions": 2, "configs": named}}, wait_for_metadata=True)
    admin.close()


def values(address: str, topic: str, count: int) -> list[RawRecord]:
    consumer = KafkaStreamConsumer(address, [topic], f"{topic}-reader", start="earliest")
    found: list[RawRecord] = []
    eventually(lambda: len(found) >= count or found.extend(consumer.poll(0.2)), 30.0)
    found.extend(consumer.poll(0.5))
    consumer.close()
    return found


@pytest.fixture
def producer(kafka: str) -> Iterator[KafkaStreamProducer]:
    opened = KafkaStreamProducer(kafka)
    yield opened
    opened.close()


def test_the_broker_has_kafkas_own_limit(kafka: str, topic: str, producer: KafkaStreamProducer) -> None:
    make(kafka, topic)
    assert producer._limits._ask(topic) == limits.DEFAULT_BYTES


def test_an_inference_that_is_too_large_costs_no_other(
    kafka: str, topic: str, producer: KafkaStreamProducer, caplog: pytest.LogCaptureFixture
) -> None:
    make(kafka, topic)
    tap = Tap(producer, CloudEvents(), topic, "tiny", close_timeout_s=30.0)
    logits = np.zeros((1, 3), np.float32)
    for i in range(201):
        values_ = RANDOM.random(400_000 if i == 100 else 100).astype(np.float32)
        assert tap.record(values_[None], logits, id=f"r{i}", version=0)
    tap.close()
    counts = tap.counts()
    assert {name: counts[name] for name in ("sent", "dropped", "errors", "too_large")} == {
        "sent": 200, "dropped": 0, "errors": 0, "too_large": 1
    }  # fmt: skip
    found = values(kafka, topic, 200)
    assert {record.key for record in found} == {b"r%d" % i for i in range(201) if i != 100}
    told = [record.message for record in caplog.records if "max.message.bytes" in record.message]
    assert len(told) == 1 and "1048588" in told[0]


def test_what_fits_when_it_is_compressed_is_sent(
    kafka: str, topic: str, producer: KafkaStreamProducer
) -> None:
    make(kafka, topic)
    producer.send(topic, b"k", b'{"data": [0.0, 0.0]}' * 150_000)
    producer.flush()
    assert [len(record.value or b"") for record in values(kafka, topic, 1)] == [3_000_000]


def test_the_topic_s_own_limit_counts(
    kafka: str, topic: str, producer: KafkaStreamProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(kafka, topic, max_message_bytes=4 << 20)
    producer.send(topic, b"k", noise(3 << 20))
    with pytest.raises(MessageTooLarge, match=f"{topic} takes, {4 << 20} bytes"):
        producer.send(topic, b"k", noise(5 << 20))
    monkeypatch.setattr(limits, "ASK_AGAIN_S", 0.0)
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    admin.alter_configs([_resource(topic, 6 << 20)])
    admin.close()
    producer.send(topic, b"k", noise(5 << 20))
    producer.flush()
    assert len(values(kafka, topic, 2)) == 2


def _resource(topic: str, limit: int) -> Any:
    from kafka.admin import ConfigResource, ConfigResourceType

    return ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": str(limit)})


def test_a_producer_that_an_error_has_ended_is_replaced(
    kafka: str, topic: str, producer: KafkaStreamProducer
) -> None:
    """The limit is so low that it is not asked: the broker refuses, and Kafka's client ends."""
    make(kafka, topic, max_message_bytes=20_000)
    told: list[Exception | None] = []
    producer.send(topic, b"k", noise(40_000), (), told.append)
    producer.flush()
    assert isinstance(told[0], MessageTooLarge)
    for i in range(100):
        producer.send(topic, b"%d" % i, noise(1000), (), told.append)
    producer.flush()
    assert told[1:] == [None] * 100
    with pytest.raises(MessageTooLarge, match="20000 bytes"):
        producer.send(topic, b"k", noise(40_000))
    assert len(values(kafka, topic, 100)) == 100


def test_letters_for_a_topic_that_nobody_made_are_dropped_and_the_others_arrive(
    kafka: str, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    make(kafka, topic)
    producer = KafkaStreamProducer(kafka, connect_timeout_s=1.5)
    outbox = Outbox(producer, {"nobody-made-me": "dead_letter"}, close_timeout_s=30.0)
    for i in range(100):
        outbox.send("nobody-made-me", b"k", b"v")
        outbox.send(topic, b"%d" % i, b"v")
    outbox.close()
    producer.close()
    assert (outbox.counts["sent"], outbox.counts["errors"]) == (100, 100)
    assert len(values(kafka, topic, 100)) == 100
    assert caplog.text.count("nobody-made-me is dropped") == 1


ACLS = """
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:admin
sasl.enabled.mechanisms=PLAIN
listener.name.clients.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \\
    username="admin" password="a" user_admin="a" user_agent="b";
sasl.mechanism.inter.broker.protocol=PLAIN
"""


def login(user: str, password: str) -> dict[str, str]:
    return {
        "security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN",
        "sasl_plain_username": user, "sasl_plain_password": password,
    }  # fmt: skip


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker on which the user `agent` may read the topics `requests` and `labels`, and nothing else."""
    if unavailable():
        pytest.skip(f"kafka: {unavailable()}")
    with broker(
        tmp_path_factory.mktemp("guarded"), ACLS, clients="SASL_PLAINTEXT", **login("admin", "a")
    ) as address:
        admin = KafkaAdminClient(bootstrap_servers=address, **login("admin", "a"))
        admin.create_topics(
            {name: {"num_partitions": 2} for name in ("requests", "labels")}, wait_for_metadata=True
        )
        admin.create_acls([_may_read(name) for name in ("requests", "labels")] + [_may_join()])
        admin.close()
        agent = KafkaAdminClient(bootstrap_servers=address, **login("agent", "b"))
        eventually(
            lambda: {"requests", "labels"} <= set(agent.list_topics()), 30.0
        )  # rights take effect later
        agent.close()
        yield address


def _may_read(topic: str) -> Any:
    return _acl("TOPIC", topic)


def _may_join() -> Any:
    return _acl("GROUP", "agents")


def _acl(kind: str, name: str) -> Any:
    from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

    pattern = ResourcePattern(ResourceType[kind], name)
    return ACL("User:agent", "*", ACLOperation.READ, ACLPermissionType.ALLOW, pattern)


def agent_settings(address: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **more: str) -> Any:
    from tta_agent.settings import env

    given = {
        "STREAM__BOOTSTRAP_SERVERS": address, "STREAM__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "STREAM__SASL_MECHANISM": "PLAIN", "STREAM__SASL_USERNAME": "agent", "STREAM__SASL_PASSWORD": "b",
        "STREAM__TOPIC": "requests", "STREAM__LABELS_TOPIC": "labels", "STREAM__GROUP": "agents",
        "STREAM__CONNECT_TIMEOUT_S": "2", "STORE__PATH": str(folder), **more,
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(f"TTA_{name}", value)
    return env.load()


def test_at_the_start_it_is_said_what_is_missing_and_cannot_be_made(
    guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tta_agent.stream import factory

    settings = agent_settings(guarded, tmp_path, monkeypatch)
    consumer = factory.open_source(settings, ["requests", "labels"])
    with caplog.at_level(logging.WARNING):
        producer = factory.open_producer(settings, ["requests.tta.dlq"])
    assert "requests.tta.dlq is missing and cannot be created" in caplog.text
    assert "allow this user to create" in caplog.text
    outbox = Outbox(producer, {"requests.tta.dlq": "dead_letter"}, close_timeout_s=30.0)
    for _ in range(20):
        outbox.send("requests.tta.dlq", b"k", b"v")
    outbox.close()
    assert outbox.counts["errors"] == 20
    consumer.close()
    producer.close()


def test_a_topic_that_is_read_must_be_there(
    guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tta_agent.stream import factory

    settings = agent_settings(guarded, tmp_path, monkeypatch, STREAM__LABELS_TOPIC="truths")
    with pytest.raises(StreamError, match=r"cannot be created: truths \(.*\n.*allow this user"):
        factory.open_source(settings, ["requests", "truths"])


def test_missing_topics_are_made_with_partitions_that_fit(kafka: str, topic: str) -> None:
    from tta_agent.settings import env
    from tta_agent.stream import factory

    stream = {"bootstrap_servers": kafka, "topic": topic, "labels_topic": f"{topic}.labels", "partitions": 3}
    settings = env.load(stream=stream)
    ensure_topics(kafka, [f"{topic}.there"], 5)
    factory.open_producer(settings, [topic, f"{topic}.labels", f"{topic}.letters", f"{topic}.there"]).close()
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    found = {about["name"]: len(about["partitions"]) for about in admin.describe_topics()}
    admin.close()
    sizes = [found[f"{topic}{end}"] for end in ("", ".labels", ".letters", ".there")]
    assert sizes == [3, 3, 1, 5]


def test_polls_are_bounded_in_bytes_where_large_records_are_compressed_well(
    kafka: str, topic: str, producer: KafkaStreamProducer, client: ClientName
) -> None:
    make(kafka, topic)
    for i in range(100):
        producer.send(topic, b"%d" % i, bytes(600_000))
    producer.flush()
    consumer = KafkaStreamConsumer(kafka, [topic], f"{topic}-reader", start="earliest", client=client)
    polls: list[int] = []
    eventually(lambda: sum(polls) >= 100 or polls.append(len(consumer.poll(0.2))), 30.0)
    consumer.close()
    assert max(polls) <= 16  # the first, before their size is known
    assert max([n for n in polls if n][1:]) <= 6
