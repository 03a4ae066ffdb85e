"""Connecting to Kafka: options, errors in plain words, and topics."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    KafkaConfigurationError,
    KafkaError,
    RebalanceInProgressError,
    TopicAlreadyExistsError,
    UnknownMemberIdError,
)
from kafka.net.compat import KafkaNetClient

from tta_agent.core.errors import ConfigError, StreamError, nearest
from tta_agent.stream.kafka.cause import LastCause, unreachable

CONNECT_TIMEOUT_S = 10.0
CREATE_ADVICE = "create them by hand, or allow this user to create them"
OPTIONS: Mapping[Any, Mapping[str, object]] = {
    KafkaConsumer: {
        "enable_auto_commit": False,
        "metadata_max_age_ms": 5_000,  # what is created later, topic or partition, is found so soon
        "metrics_sample_window_ms": 2_500,  # see KafkaStreamConsumer._listen
        "request_timeout_ms": 15_000,
        "session_timeout_ms": 10_000,
        "heartbeat_interval_ms": 1_000,
    },
    KafkaProducer: {
        "acks": "all",
        "enable_idempotence": True,
        "compression_type": "lz4",
        "linger_ms": 5,
        "batch_size": 256 << 10,
        "max_request_size": 32 << 20,  # the topic's own limit counts, see TopicLimits
        "request_timeout_ms": 10_000,
    },
    KafkaAdminClient: {},
}
T = TypeVar("T")

_GROUP_IN_MOTION = (CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)


def is_transient(error: KafkaError) -> bool:
    """Whether the client recovers by itself: the group rebalances, or a broker is away."""
    return bool(error.retriable) or isinstance(error, _GROUP_IN_MOTION)


def connect(
    make: Callable[..., T],
    bootstrap_servers: str,
    options: Mapping[str, object],
    client_options: Mapping[str, object],
    connect_timeout_s: float,
) -> T:
    """Make a client of kafka-python that has reached a broker.

    Args:
        make: KafkaConsumer, KafkaProducer or KafkaAdminClient.
        bootstrap_servers: host:port, several separated by commas.
        options: beside those of `OPTIONS`.
        client_options: of the user, for all three clients; each takes those that it knows, and they win over ours.
        connect_timeout_s: how long to try.

    Raises:
        StreamError: no broker answered; names the address, the cause and what to check.
        ConfigError: an option is unknown or impossible.
    """
    opened: list[Any] = []

    def open_client(**config: object) -> object:
        opened.append(KafkaNetClient(**config))
        return opened[-1]

    limit = {"bootstrap_timeout_ms": int(connect_timeout_s * 1000), "reconnect_backoff_max_ms": 1000}
    chosen = {**limit, **defaults(make), **options, **known(make, client_options)}
    with LastCause() as cause:
        try:
            return make(
                bootstrap_servers=bootstrap_servers.split(","),
                kafka_client=open_client,
                **chosen,
            )
        except Exception as error:
            for client in opened:  # a client that could not connect would leave its thread behind
                client.close()
            raise _explained(error, bootstrap_servers, cause.text, connect_timeout_s) from error


def _explained(error: Exception, servers: str, cause: str, silent_s: float) -> StreamError | ConfigError:
    if isinstance(error, KafkaError) and not isinstance(error, KafkaConfigurationError):
        return StreamError(unreachable(servers, cause or str(error), silent_s))
    return ConfigError(f"Kafka's client refuses its options: {error}\ncheck the client options")


def defaults(make: Any) -> Mapping[str, object]:
    """Our options of a client, or of the one that a class is made of."""
    return next(options for client, options in OPTIONS.items() if issubclass(make, client))


def known(make: Any, client_options: Mapping[str, object]) -> dict[str, object]:
    """Those options that this client has.

    Raises:
        ConfigError: none of the three clients has an option of that name.
    """
    every = {name for client in OPTIONS for name in client.DEFAULT_CONFIG}
    for name in client_options:
        if name not in every:
            raise ConfigError(f"Kafka's client has no option {name}; {nearest(name, every)}")
    return {name: value for name, value in client_options.items() if name in make.DEFAULT_CONFIG}


def ensure_topics(
    bootstrap_servers: str,
    topics: Sequence[str],
    partitions: int,
    *,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    client_options: Mapping[str, object] | None = None,
) -> None:
    """Create the topics that are missing, and wait until they can be used.

    Raises:
        StreamError: no broker answers, or topics are missing and may not be created; names them.
    """
    missing = create_topics(
        bootstrap_servers, topics, partitions,
        connect_timeout_s=connect_timeout_s, client_options=client_options,
    )  # fmt: skip
    if missing:
        named = ", ".join(f"{topic} ({why})" for topic, why in missing.items())
        raise StreamError(f"topics are missing and cannot be created: {named}\n{CREATE_ADVICE}")


def create_topics(
    bootstrap_servers: str,
    topics: Sequence[str],
    partitions: int,
    *,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    client_options: Mapping[str, object] | None = None,
) -> dict[str, str]:
    """Create the topics that are missing, and wait until they can be used; the reasons for those that cannot be had.

    Raises:
        StreamError: no broker answers.
    """
    admin = connect(KafkaAdminClient, bootstrap_servers, {}, client_options or {}, connect_timeout_s)
    try:
        return _create(admin, sorted(set(topics) - set(admin.list_topics())), partitions)
    except KafkaError as error:
        raise StreamError(f"the topics of {bootstrap_servers} cannot be listed: {error}") from error
    finally:
        admin.close()


def _create(admin: Any, topics: Sequence[str], partitions: int) -> dict[str, str]:
    failed = {}
    for topic in topics:
        try:
            with contextlib.suppress(TopicAlreadyExistsError):  # somebody else creates them at the same time
                admin.create_topics({topic: {"num_partitions": partitions}})
            admin.wait_for_topics([topic])
        except (KafkaError, ValueError) as error:
            failed[topic] = " ".join(str(error).split())[:200]
    return failed
