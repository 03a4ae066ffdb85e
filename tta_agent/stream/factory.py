"""Kafka where brokers are named, the embedded log otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tta_agent.core.errors import ConfigError
from tta_agent.core.protocols import Producer, StreamConsumer
from tta_agent.settings.data_groups import StreamSettings
from tta_agent.settings.schema import Settings


def open_source(settings: Settings, topics: Sequence[str], group: str | None = None) -> StreamConsumer:
    """A member of the consumer group, reading `topics`.

    Raises:
        StreamError: the broker or the log cannot be reached.
    """
    s = settings.stream
    if s.bootstrap_servers:
        from tta_agent.stream.kafka.consumer import KafkaStreamConsumer, ensure_topics

        brokers, common = s.bootstrap_servers, connection(s)
        ensure_topics(brokers, topics, s.partitions, **common)
        return KafkaStreamConsumer(brokers, topics, group or s.group, start=s.start, **common)
    from tta_agent.stream.embedded.consumer import EmbeddedStreamConsumer

    settings.store.path.mkdir(parents=True, exist_ok=True)
    path = settings.store.path / "log.db"
    return EmbeddedStreamConsumer(path, topics, group or s.group, start=s.start, partitions=s.partitions)


def open_producer(settings: Settings) -> Producer:
    """Appends to the same stream.

    Raises:
        StreamError: the broker or the log cannot be reached.
    """
    s = settings.stream
    if s.bootstrap_servers:
        from tta_agent.stream.kafka.consumer import KafkaStreamProducer

        return KafkaStreamProducer(s.bootstrap_servers, **connection(s))
    from tta_agent.stream.embedded.consumer import EmbeddedProducer

    settings.store.path.mkdir(parents=True, exist_ok=True)
    return EmbeddedProducer(settings.store.path / "log.db", partitions=s.partitions)


def connection(stream: StreamSettings) -> dict[str, Any]:
    """How long to try, and security as kafka-python spells it."""
    given = {
        "security_protocol": stream.security_protocol,
        "sasl_mechanism": stream.sasl_mechanism,
        "sasl_plain_username": stream.sasl_username,
        "sasl_plain_password": _password(stream),
        "ssl_cafile": str(stream.ssl_cafile) if stream.ssl_cafile else None,
    }
    options = {name: value for name, value in given.items() if value is not None}
    return {"connect_timeout_s": stream.connect_timeout_s, "client_options": options}


def _password(stream: StreamSettings) -> str | None:
    if stream.sasl_password is not None:
        return stream.sasl_password.get_secret_value()
    if stream.sasl_password_file is None:
        return None
    try:
        return stream.sasl_password_file.read_text().strip()
    except OSError as error:
        raise ConfigError(
            f"TTA_STREAM__SASL_PASSWORD_FILE={stream.sasl_password_file}: {error.strerror}"
        ) from None
