"""Opening of consumers of Kafka by the settings, and of topics that are written to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, TypeVar

from tta_agent.core.errors import ConfigError
from tta_agent.settings.data_groups import StreamSettings
from tta_agent.settings.schema import Settings
from tta_agent.settings.values import topic_names
from tta_agent.stream.kafka.client import CREATE_ADVICE, create_topics, ensure_topics
from tta_agent.stream.kafka.consumer import FETCH_BYTES, KafkaStreamConsumer
from tta_agent.stream.kafka.group_client import ClientName
from tta_agent.stream.topic_names import named, pattern

LEAST_FETCH = 1 << 20  # bytes: a broker's default limit of a batch of records
log = logging.getLogger(__name__)
T = TypeVar("T")


def open_consumer(
    settings: Settings, brokers: str, topics: Sequence[str], group: str, options: Mapping[str, Any]
) -> KafkaStreamConsumer:
    """Join a group; topics that are named and missing are made.

    Args:
        topics: as settings give them: names, several by comma, or regular expressions.

    Raises:
        StreamError: the brokers cannot be reached, or a topic is missing and cannot be made.
        ConfigError: the client that the settings name is not installed, or cannot do what they say.
    """
    s, names = settings.stream, named(topics)
    ensure_topics(brokers, names, s.partitions, **options)
    fetch = max(LEAST_FETCH, min(FETCH_BYTES, s.queue_bytes // 4))
    matched = pattern(settings, topics)

    def member(client: ClientName) -> KafkaStreamConsumer:
        given = {"pattern": matched, "start": s.start, "fetch_bytes": fetch, "client": client, **options}
        return KafkaStreamConsumer(brokers, names, group, **given)

    return chosen_client(s.client, member)


def chosen_client(wanted: str, member: Callable[[ClientName], T]) -> T:
    """Make a member by the client that the settings name, and say which one reads.

    Args:
        wanted: "auto", or a name.

    Raises:
        ConfigError: it is named, and not installed or cannot do what the settings say.
    """
    why = "TTA_STREAM__CLIENT names it"
    if wanted != "kafka-python":
        try:
            made = member("confluent-kafka")
            log.info("Kafka is read by confluent-kafka %s", version("confluent-kafka"))
            return made
        except ConfigError as error:
            if wanted != "auto":
                raise
            why = str(error).partition("\n")[0]
    made = member("kafka-python")
    log.info("Kafka is read by kafka-python %s: %s", version("kafka-python"), why)
    return made


def create_to_write(stream: StreamSettings, topics: Sequence[str], options: Mapping[str, Any]) -> None:
    """Make topics to write to. Nobody has to write: what cannot be written is dropped and counted later."""
    # equally split: a label meets its record
    split = {*topic_names(stream.topic), stream.labels_topic, stream.output}
    for topic in topics:
        count, brokers = stream.partitions if topic in split else 1, stream.bootstrap_servers or ""
        for why in create_topics(brokers, [topic], count, **options).values():
            told = "topic %s is missing and cannot be created (%s): what belongs there is dropped and counted\n%s"
            log.warning(told, topic, why, CREATE_ADVICE)
