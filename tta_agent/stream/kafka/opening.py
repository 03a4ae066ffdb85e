"""Opening of consumers of Kafka by the settings, and of topics that are written to."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from tta_agent.settings.data_groups import StreamSettings
from tta_agent.settings.schema import Settings
from tta_agent.settings.values import topic_names
from tta_agent.stream.kafka.client import CREATE_ADVICE, create_topics, ensure_topics
from tta_agent.stream.kafka.consumer import FETCH_BYTES, KafkaStreamConsumer
from tta_agent.stream.topic_names import named, pattern

LEAST_FETCH = 1 << 20  # bytes: a broker's default limit of a batch of records
log = logging.getLogger(__name__)


def open_consumer(
    settings: Settings, brokers: str, topics: Sequence[str], group: str, options: Mapping[str, Any]
) -> KafkaStreamConsumer:
    """Join a group; topics that are named and missing are made.

    Args:
        topics: as settings give them: names, several by comma, or regular expressions.

    Raises:
        StreamError: the brokers cannot be reached, or a topic is missing and cannot be made.
    """
    s, names = settings.stream, named(topics)
    ensure_topics(brokers, names, s.partitions, **options)
    fetch = max(LEAST_FETCH, min(FETCH_BYTES, s.queue_bytes // 4))
    matched = pattern(settings, topics)
    return KafkaStreamConsumer(
        brokers, names, group, pattern=matched, start=s.start, fetch_bytes=fetch, **options
    )


def create_to_write(stream: StreamSettings, topics: Sequence[str], options: Mapping[str, Any]) -> None:
    """Make topics to write to. Nobody has to write: what cannot be written is dropped and counted later."""
    # equally split: a label meets its record
    split = {*topic_names(stream.topic), stream.labels_topic, stream.output}
    for topic in topics:
        count, brokers = stream.partitions if topic in split else 1, stream.bootstrap_servers or ""
        for why in create_topics(brokers, [topic], count, **options).values():
            told = "topic %s is missing and cannot be created (%s): what belongs there is dropped and counted\n%s"
            log.warning(told, topic, why, CREATE_ADVICE)
