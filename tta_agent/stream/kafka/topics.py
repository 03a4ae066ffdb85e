"""Facts about topics of Kafka, asked without changing anything: partitions, limits, and rights that are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError

from tta_agent.core.errors import StreamError
from tta_agent.stream.kafka.client import CONNECT_TIMEOUT_S, connect
from tta_agent.stream.kafka.limits import CONFIG


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """Facts about topics.

    Attributes:
        listed: topics that this user sees.
        partitions: number of them, of topics that are there.
        limits: largest record in bytes, of topics that say it.
        refused: errors by what was asked.
    """

    listed: int
    partitions: dict[str, int]
    limits: dict[str, int]
    refused: dict[str, str]


def describe(
    bootstrap_servers: str,
    topics: Sequence[str],
    *,
    pattern: str | None = None,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    client_options: Mapping[str, object] | None = None,
) -> TopicFacts:
    """Ask the broker about topics, also about those whose names match a regular expression.

    Raises:
        StreamError: no broker answers, or it refuses to list topics.
    """
    admin = connect(KafkaAdminClient, bootstrap_servers, {}, client_options or {}, connect_timeout_s)
    try:
        listed = set(admin.list_topics())
        matching = sorted(t for t in listed if pattern and re.match(pattern, t))
        there = list(dict.fromkeys([*(topic for topic in topics if topic in listed), *matching]))
        facts = TopicFacts(len(listed), {}, {}, {})
        for topic in there:
            _one(admin, topic, facts)
        return facts
    except KafkaError as error:
        raise StreamError(f"the topics of {bootstrap_servers} cannot be listed: {error}") from error
    finally:
        admin.close()


def _one(admin: Any, topic: str, facts: TopicFacts) -> None:
    try:
        (described,) = admin.describe_topics([topic])
        facts.partitions[topic] = len(described["partitions"])
    except (KafkaError, KeyError, TypeError, ValueError) as error:
        facts.refused[f"describe {topic}"] = " ".join(str(error).split())[:200]
        facts.partitions[topic] = 0
    try:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        found = admin.describe_configs([resource], config_filter="all")
        facts.limits[topic] = int(found["topic"][topic][CONFIG]["value"])
    except Exception:  # no permission, an old broker, a client that cannot read its answer
        return
