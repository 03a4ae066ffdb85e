"""The choice of the client that reads Kafka, and its options in librdkafka's names."""

from __future__ import annotations

import contextlib
import logging
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer

from tests.parts.serving import eventually
from tests.stream.test_consumers import take
from tests.stream.test_kafka_options import Tokens
from tta_agent.core.errors import ConfigError
from tta_agent.settings import env
from tta_agent.settings.schema import Settings
from tta_agent.stream import factory
from tta_agent.stream.kafka.consumer import (
    FETCH_BYTES,
    KafkaStreamConsumer,
    KafkaStreamProducer,
    ensure_topics,
)
from tta_agent.stream.kafka.options import NO_TEXT, OWN

pytest.importorskip("confluent_kafka", reason="needs the extra [fast]")
from tta_agent.stream.kafka.confluent import fetching, options
from tta_agent.stream.kafka.confluent.connect import _config

NONE = {
    "api_version", "enable_incremental_fetch_sessions", "proxy_url", "socks5_proxy", "sasl_kerberos_name",
    "sasl_kerberos_service_name", "sasl_kerberos_domain_name",
}  # fmt: skip
OURS = {"fetch_max_bytes": FETCH_BYTES, "max_partition_fetch_bytes": 8 << 20, "max_poll_records": 500}


def test_every_option_has_a_counterpart_or_is_refused() -> None:
    from confluent_kafka import Consumer

    for name, default in KafkaConsumer.DEFAULT_CONFIG.items():
        if name in OWN or name in NO_TEXT or name == options.TOKENS:
            continue
        value = "something" if default is None else default
        given = {name: {"receive_buffer_bytes": 9, "send_buffer_bytes": 9}.get(name, value)}
        if name in NONE:
            with pytest.raises(ConfigError, match=f"TTA_STREAM__KAFKA__{name.upper()} has no counterpart"):
                options.translated(given)
        elif not name.startswith("ssl_"):  # whose files have to be there
            Consumer({"group.id": "g", **options.translated(given)}).close()
        else:
            assert options.translated(given)


def test_the_library_gets_what_kafka_python_would() -> None:
    given = {
        "fetch_max_wait_ms": 77, "ssl_check_hostname": False, "sasl_plain_username": "mia", "client_rack": "a",
        "request_timeout_ms": 9000, "sasl_oauth_token_provider": Tokens(), "max_poll_records": 5,
    }  # fmt: skip
    config, by_name = _config("h:1", OURS, given)
    expected = {
        "fetch.wait.max.ms": 77, "ssl.endpoint.identification.algorithm": "none", "sasl.username": "mia",
        "client.rack": "a", "socket.timeout.ms": 9000, "check.crcs": True, "isolation.level": "read_uncommitted",
        "enable.auto.commit": False, "session.timeout.ms": 10_000, "fetch.max.bytes": FETCH_BYTES // 4,
        "queued.max.messages.kbytes": FETCH_BYTES >> 10, "partition.assignment.strategy": "range",
    }  # fmt: skip
    assert expected.items() <= config.items() and by_name["max_poll_records"] == 5
    text, expires_s, name, extensions = config["oauth_cb"]("")
    assert text.count(".") == 2 and name == "mia" and expires_s > 1e9 and extensions == {}
    assert options._claims("opaque") == options._claims("a.b.c") == {}


@pytest.fixture
def settings(kafka: str, tmp_path: Path) -> Any:
    """Settings by the name of the client and the options of kafka-python."""

    def make(client: str, **given: str) -> Settings:
        topic = f"c{uuid.uuid4().hex[:8]}"
        stream = {
            "topic": topic,
            "bootstrap_servers": kafka,
            "group": topic,
            "client": client,
            "kafka": given,
        }
        return env.load(stream=stream, store={"path": tmp_path})

    return make


def opened(settings: Settings) -> str:
    """Which client reads."""
    with contextlib.closing(factory.open_source(settings, [settings.stream.topic])) as source:
        assert isinstance(source, KafkaStreamConsumer)
        return type(source._consumer).__name__


@pytest.mark.kafka
def test_the_faster_client_reads_where_it_can_and_that_is_said(
    settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert opened(settings("auto")) == opened(settings("confluent-kafka")) == "ConfluentClient"
        assert caplog.text.count("Kafka is read by confluent-kafka") == 2
        assert opened(settings("kafka-python")) == "KafkaPythonClient"
    assert "TTA_STREAM__CLIENT names it" in caplog.text


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("given", "why"),
    [
        (
            {"enable_incremental_fetch_sessions": "false"},
            "ENABLE_INCREMENTAL_FETCH_SESSIONS has no counterpart",
        ),
        ({"retry_backoff_ms": "0"}, "Kafka's client refuses its options"),
    ],
)
def test_what_it_cannot_do_is_left_to_kafka_python_or_refused(
    settings: Any, caplog: pytest.LogCaptureFixture, given: dict[str, str], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        opened(settings("confluent-kafka", **given))
    with caplog.at_level(logging.INFO):
        assert opened(settings("auto", **given)) == "KafkaPythonClient"
    assert "Kafka is read by kafka-python" in caplog.text and why in caplog.text


@pytest.mark.kafka
def test_where_it_is_not_installed(
    settings: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tta_agent.stream.kafka.confluent.connect", None)
    with pytest.raises(ConfigError, match=r"cannot be imported .*\n.*tta-agent\[fast\]"):
        opened(settings("confluent-kafka"))
    with caplog.at_level(logging.INFO):
        assert opened(settings("auto")) == "KafkaPythonClient"
    assert "confluent-kafka cannot be imported" in caplog.text


@pytest.mark.kafka
def test_members_of_both_kinds_share_a_group_and_follow_each_other(kafka: str) -> None:
    topic = f"c{uuid.uuid4().hex[:8]}"
    ensure_topics(kafka, [topic], 4)
    producer = KafkaStreamProducer(kafka)

    def put(count: int) -> None:
        for i in range(count):
            producer.send(topic, b"%d" % i, b"v")
        producer.flush()

    put(40)
    first = KafkaStreamConsumer(kafka, [topic], topic, start="earliest", client="kafka-python")
    second = KafkaStreamConsumer(kafka, [topic], topic, start="earliest", client="confluent-kafka")

    def at_the_end() -> bool:
        first.poll(0.05), second.poll(0.05)
        return len(first.assignment()) == len(second.assignment()) == 2 and not first.lag() + second.lag()

    eventually(at_the_end, 120.0)  # both join again for each change, which takes turns on a busy machine
    first.commit(first.positions()), second.commit(second.positions())
    ids = [first.topic_ids(), second.topic_ids()]
    assert ids[0] == ids[1] and list(ids[0]) == [topic], "a checkpoint of either is read by the other"
    first.close()
    put(20)
    assert len(take(second, 20)) == 20
    second.close()
    producer.close()


@pytest.mark.kafka
def test_a_short_pause_throws_nothing_away(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = f"c{uuid.uuid4().hex[:8]}"
    ensure_topics(kafka, [topic], 1)
    producer = KafkaStreamProducer(kafka)
    for i in range(50):
        producer.send(topic, b"%d" % i, b"v")
    producer.close()
    source = KafkaStreamConsumer(
        kafka, [topic], topic, start="earliest", max_records=5, client="confluent-kafka"
    )
    with contextlib.closing(source):
        found = [*source.poll(20.0)]
        inside = source._consumer._fetching
        source.pause()
        assert not source.poll(0.3) and not inside._stopped
        assert source._consumer._messages.held_bytes, "one message, so that the group could be served"
        monkeypatch.setattr(fetching, "STOP_AFTER_S", 0.0)
        assert not source.poll(0.3) and inside._stopped == inside.owned
        source.resume()
        found += take(source, 50 - len(found))
        assert not inside._stopped
    assert [record.offset for record in found] == list(range(50))
