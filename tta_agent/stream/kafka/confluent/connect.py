"""Connecting a client of confluent-kafka: options in its names, and errors in plain words."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from confluent_kafka import IsolationLevel, KafkaException
from confluent_kafka.admin import AdminClient
from kafka import KafkaAdminClient, KafkaConsumer

from tta_agent.core.errors import ConfigError, StreamError
from tta_agent.stream.kafka.cause import unreachable
from tta_agent.stream.kafka.client import connect, defaults, known
from tta_agent.stream.kafka.confluent.client import ConfluentClient
from tta_agent.stream.kafka.confluent.options import DEFAULTS, translated
from tta_agent.stream.kafka.confluent.other_reader import OtherReader
from tta_agent.stream.kafka.confluent.topic_watch import TopicWatch
from tta_agent.stream.kafka.python_client import KafkaPythonClient

FIXED = {
    "enable.auto.offset.store": False,
    "fetch.queue.backoff.ms": 20,  # how soon it fetches again once its queue has room
    "log.connection.close": False,
    "partition.assignment.strategy": "range",  # as kafka-python: members of both kinds may share a group
}
FETCHES = 4  # in the queue: what is fetched is unpacked at once, whatever it becomes
OF_CONNECTIONS = (
    "bootstrap.", "client.dns", "client.id", "connections.", "log.", "oauth_cb", "receive.", "reconnect.", "retry.",
    "sasl.", "security.", "socket.", "ssl.",
)  # fmt: skip


def connect_confluent(
    bootstrap_servers: str,
    own: Mapping[str, Any],
    client_options: Mapping[str, Any],
    connect_timeout_s: float,
) -> ConfluentClient:
    """Make a client that has reached a broker.

    Args:
        bootstrap_servers: host:port, several separated by commas.
        own, client_options: by kafka-python's names; those of the user win.
        connect_timeout_s: how long to try.

    Raises:
        StreamError: no broker answered; names the address, the cause and what to check.
        ConfigError: an option is unknown, impossible or not to be had with this library.
    """
    config, options = _config(bootstrap_servers, own, client_options)
    # kafka-python looks first: both tell a failure in the same words
    connect(KafkaAdminClient, bootstrap_servers, {}, client_options, connect_timeout_s).close()
    try:
        watch = _watch(config, options["isolation_level"])
        reader = OtherReader(lambda: _alone(bootstrap_servers, client_options, connect_timeout_s))
        client = ConfluentClient(config, options["max_poll_records"], watch, reader)
    except (KafkaException, TypeError, ValueError) as error:
        raise ConfigError(f"Kafka's client refuses its options: {error}\ncheck the client options") from error
    if not watch.wait_for(0.0, connect_timeout_s):
        client.close(0)
        raise StreamError(unreachable(bootstrap_servers, client.cause, connect_timeout_s))
    return client


def _config(
    bootstrap_servers: str, own: Mapping[str, Any], client_options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options by librdkafka's names and by kafka-python's."""
    queued = own["fetch_max_bytes"]
    sizes = {
        name: min(own[name], queued // FETCHES) for name in ("fetch_max_bytes", "max_partition_fetch_bytes")
    }
    options = {**defaults(KafkaConsumer), **DEFAULTS, **own, **sizes, **known(KafkaConsumer, client_options)}
    options.setdefault("reconnect_backoff_max_ms", 1000)
    bound = {"bootstrap.servers": bootstrap_servers, "queued.max.messages.kbytes": max(queued >> 10, 1)}
    return {**FIXED, **bound, **translated(options)}, options


def _watch(config: Mapping[str, Any], isolation: str) -> TopicWatch:
    admin = AdminClient(
        {name: value for name, value in config.items() if name.startswith(OF_CONNECTIONS)},
        logger=logging.getLogger("kafka.librdkafka"),
    )
    level = (
        IsolationLevel.READ_COMMITTED if isolation == "read_committed" else IsolationLevel.READ_UNCOMMITTED
    )
    return TopicWatch(admin, level)


def _alone(servers: str, client_options: Mapping[str, Any], connect_timeout_s: float) -> KafkaPythonClient:
    options = {name: value for name, value in client_options.items() if name != "group_instance_id"}
    return connect(KafkaPythonClient, servers, {"group_id": None}, options, connect_timeout_s)
