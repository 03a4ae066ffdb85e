"""Options of Kafka's clients by variable, on a real broker: TLS, SASL, static membership."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka.net.sasl.oauth import AbstractTokenProvider

from tests.conftest import require_or_skip
from tests.parts.kafka.broker import broker, unavailable
from tta_agent.core.errors import ConfigError
from tta_agent.core.stream_protocols import StreamConsumer
from tta_agent.settings import env
from tta_agent.settings.schema import Settings
from tta_agent.stream import factory
from tta_agent.stream.kafka.consumer import ensure_topics
from tta_agent.stream.kafka.options import client_options

LIMIT_S = 60.0
MODULES = "org.apache.kafka.common.security"
GUARDED = f"""
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
sasl.mechanism.inter.broker.protocol=PLAIN
listener.name.clients.plain.sasl.jaas.config={MODULES}.plain.PlainLoginModule required \\
    username="mia" password="plain" user_mia="plain";
listener.name.clients.scram-sha-256.sasl.jaas.config={MODULES}.scram.ScramLoginModule required;
listener.name.clients.scram-sha-512.sasl.jaas.config={MODULES}.scram.ScramLoginModule required;
listener.name.clients.oauthbearer.sasl.jaas.config={MODULES}.oauthbearer.OAuthBearerLoginModule required \\
    unsecuredLoginStringClaim_sub="broker";
ssl.keystore.type=PEM
ssl.keystore.location={{folder}}/server.pem
ssl.truststore.type=PEM
ssl.truststore.location={{folder}}/server.crt
"""


class Tokens(AbstractTokenProvider):  # type: ignore[misc]
    """Unsigned tokens, which a broker without a key set takes."""

    def token(self) -> str:
        """For a minute; issued before, since the broker rounds to the millisecond and takes none from the future."""
        now = time.time()
        parts = {"alg": "none"}, {"sub": "mia", "iat": now - 10, "exp": now + 60}
        return ".".join(
            [*(base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts), ""]
        )


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"fetch_max_wait_ms": "77"}, 77), ({"check_crcs": "false"}, False), ({"check_crcs": True}, True),
        ({"client_rack": "a"}, "a"), ({"group_instance_id": "agent-0"}, "agent-0"), ({"send_buffer_bytes": "9"}, 9),
        ({"retries": "5"}, 5.0), ({"ssl_certfile": "/a.pem"}, "/a.pem"),
    ],
)  # fmt: skip
def test_values_have_the_type_of_the_default(given: dict[str, Any], taken: object) -> None:
    found = client_options(given)
    assert found == {next(iter(given)): taken} and type(next(iter(found.values()))) is type(taken)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"fetch_max_wait": "1"}, "did you mean TTA_STREAM__KAFKA__FETCH_MAX_WAIT_MS"),
        ({"fetch_max_wait_ms": "soon"}, "FETCH_MAX_WAIT_MS='soon': expected int"),
        ({"check_crcs": "maybe"}, "CHECK_CRCS='maybe': expected bool"), ({"fetch_min_bytes": True}, "expected int"),
        ({"group_id": "g"}, "TTA_STREAM__GROUP"), ({"enable_auto_commit": "true"}, "after the checkpoint"),
        ({"value_deserializer": "x"}, "is no option"), ({"sasl_oauth_token_provider": "a"}, "expected module:name"),
        ({"partition_assignment_strategy": "sticky"}, "brings a label to the member"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        client_options(given)


def test_an_option_of_kafka_without_kafka_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTA_STREAM__KAFKA__CLIENT_RACK", "a")
    monkeypatch.setenv("TTA_STORE__PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="CLIENT_RACK needs TTA_STREAM__BOOTSTRAP_SERVERS"):
        factory.open_source(env.load(), ["t"])


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A broker with TLS and SASL, and the certificate of its authority."""
    missing = unavailable() or (None if shutil.which("openssl") else "needs openssl on the PATH")
    require_or_skip("kafka", missing)
    folder = tmp_path_factory.mktemp("guarded")
    certificate(folder)
    more, scram = GUARDED.format(folder=folder), "SCRAM-SHA-512=[name=mia,password=scram]"
    login = {
        "security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_plain_username": "mia",
        "sasl_plain_password": "plain", "ssl_cafile": str(folder / "server.crt"),
    }  # fmt: skip
    with broker(folder, more, clients="SASL_SSL", scram=scram, **login) as address:
        yield address, folder / "server.crt"


def certificate(folder: Path) -> None:
    """A key and a certificate of 127.0.0.1, signed by itself."""
    names = "subjectAltName=IP:127.0.0.1,DNS:localhost"
    made = ["-newkey", "rsa:2048", "-nodes", "-keyout", folder / "server.key", "-out", folder / "server.crt"]
    subprocess.run(
        ["openssl", "req", "-x509", "-days", "2", "-subj", "/CN=localhost", "-addext", names, *made],
        check=True, capture_output=True,
    )  # fmt: skip
    both = [(folder / name).read_text() for name in ("server.key", "server.crt")]
    (folder / "server.pem").write_text("".join(both))


def settings(monkeypatch: pytest.MonkeyPatch, folder: Path, address: str, **given: str) -> Settings:
    for name, value in {"BOOTSTRAP_SERVERS": address, "CONNECT_TIMEOUT_S": "20", **given}.items():
        monkeypatch.setenv(f"TTA_STREAM__{name}", value)
    monkeypatch.setenv("TTA_STORE__PATH", str(folder))
    return env.load()


@pytest.mark.kafka
@pytest.mark.parametrize(
    "mechanism",
    [
        {"SASL_MECHANISM": "PLAIN", "SASL_PASSWORD": "plain"},
        {"SASL_MECHANISM": "SCRAM-SHA-512", "SASL_PASSWORD": "scram"},
        {"SASL_MECHANISM": "OAUTHBEARER", "KAFKA__SASL_OAUTH_TOKEN_PROVIDER": f"{__name__}:Tokens"},
    ],
    ids=lambda given: given["SASL_MECHANISM"],
)
def test_records_go_there_and_back_over_tls(
    guarded: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mechanism: dict[str, str],
    client: str,
) -> None:
    topic = f"guarded-{mechanism['SASL_MECHANISM'].lower()}-{client}"
    safe = {
        "SECURITY_PROTOCOL": "SASL_SSL",
        "SSL_CAFILE": str(guarded[1]),
        "START": "earliest",
        "TOPIC": topic,
        "CLIENT": client,
    }
    user = {} if "OAUTH" in mechanism["SASL_MECHANISM"] else {"SASL_USERNAME": "mia"}
    chosen = settings(monkeypatch, tmp_path, guarded[0], **safe, **user, **mechanism)
    source, producer = factory.open_source(chosen, [topic]), factory.open_producer(chosen, [topic])
    with contextlib.closing(source), contextlib.closing(producer):
        producer.send(topic, b"k", b"v" * 1000)
        producer.flush()
        assert [record.value for record in polled(source, 1)] == [b"v" * 1000]


def polled(source: StreamConsumer, count: int) -> list[Any]:
    found: list[Any] = []
    until_s = time.monotonic() + LIMIT_S
    while len(found) < count and time.monotonic() < until_s:
        found += source.poll(0.2)
    return found


@pytest.mark.kafka
def test_a_static_member_that_restarts_moves_no_partition(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    topic = f"static-members-{client}"
    ensure_topics(kafka, [topic], 6)

    def member(name: str) -> StreamConsumer:
        given = {
            "TOPIC": topic,
            "GROUP": f"static-{client}",
            "CLIENT": client,
            "KAFKA__GROUP_INSTANCE_ID": name,
        }
        return factory.open_source(settings(monkeypatch, tmp_path, kafka, **given), [topic])

    first, second = member("agent-0"), member("agent-1")
    until_s = time.monotonic() + LIMIT_S
    while not len(first.assignment()) == len(second.assignment()) == 3 and time.monotonic() < until_s:
        first.poll(0.1), second.poll(0.1)
    kept, gone = first.assignment(), second.assignment()
    assert len(kept) == len(gone) == 3
    second.close()
    for _ in range(10):
        first.poll(0.1)
        assert first.assignment() == kept
    second = member("agent-1")
    until_s = time.monotonic() + LIMIT_S
    while second.assignment() != gone and time.monotonic() < until_s:
        first.poll(0.1), second.poll(0.1)
        assert first.assignment() == kept
    assert second.assignment() == gone
    first.close(), second.close()
