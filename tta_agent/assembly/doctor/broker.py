"""Checks of the stream: broker, topics, rights, and how large a record may be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tta_agent.assembly.doctor.finding import CheckFinding, Outcome
from tta_agent.core.errors import ConfigError
from tta_agent.settings.schema import Settings
from tta_agent.stream import topic_names
from tta_agent.stream.factory import connection
from tta_agent.web.server import address, listen

if TYPE_CHECKING:
    from tta_agent.stream.kafka.topics import TopicFacts

ADVISED_BYTES = 2 << 20  # a batch of a few images
EQUAL = "give both topics the same number of partitions, so that a label meets its record at one member of the group"


def broker(s: Settings) -> Iterator[CheckFinding]:
    """Whether the broker answers, and the topics fit."""
    stream = s.stream
    if stream.kind == "http":
        yield _receiver(s)
        return
    if not stream.bootstrap_servers:
        log = s.store.path / "log.db"
        there = "is there" if log.exists() else "is made by whoever writes first"
        yield CheckFinding("broker", "embedded log", "ok", f"{log} {there}")
        return
    yield from _kafka(s, stream.bootstrap_servers)


def _receiver(s: Settings) -> CheckFinding:
    """Whether the receiver's address can be had, or an agent has it."""
    r = s.receiver
    where = address(r.host, r.port)
    try:
        listen(r.host, r.port, "TTA_RECEIVER__").close()
    except ConfigError as error:
        told = f"{error} (a running agent listens there itself)"
        return CheckFinding("broker", where, "warning", told, "TTA_RECEIVER__PORT names another one")
    return CheckFinding("broker", where, "ok", "is free for the receiver")


def _kafka(s: Settings, servers: str) -> Iterator[CheckFinding]:
    from tta_agent.stream.kafka.topics import describe

    stream = s.stream
    others = [t for t in (stream.responses_topic, stream.labels_topic) if t]
    matched = topic_names.pattern(s, [stream.topic])
    letters = dict.fromkeys(topic_names.dead_letters(s).values())
    named = [
        *topic_names.named([stream.topic]),
        *others,
        *letters,
        *([stream.output] if stream.output else []),
    ]
    found = describe(servers, named, pattern=matched, **connection(stream))
    yield CheckFinding("broker", servers, "ok", f"answers, and lists {found.listed} topics")
    ours = topic_names.named([stream.topic])
    if matched:
        ours = [topic for topic in found.partitions if re.match(matched, topic)]
        if not ours:
            told = "no topic matches, or this user sees none"
            yield CheckFinding("broker", stream.topic, "failure", told, "see TTA_STREAM__TOPIC")
    yield from _read(s, found, ours, "failure")
    yield from _read(s, found, others, "warning")
    yield from _written(s, found, letters)
    for topic in ours:
        yield from _equal(found.partitions, topic, stream.labels_topic)
    for right, refused in found.refused.items():
        yield CheckFinding("broker", right, "failure", refused, "allow it to this user (Kafka ACLs)")


def _read(s: Settings, found: TopicFacts, topics: Iterable[str], missing: Outcome) -> Iterator[CheckFinding]:
    for topic in topics:
        if topic not in found.partitions:
            told = "there is no such topic, or no right to see it"
            fix = f"create it with {s.stream.partitions} partitions, and allow this user to READ and DESCRIBE it"
            yield CheckFinding("broker", topic, missing, told, fix)
            continue
        yield CheckFinding("broker", topic, "ok", f"{found.partitions[topic]} partitions")
        yield _limit(topic, found.limits.get(topic))


def _written(s: Settings, found: TopicFacts, letters: Iterable[str]) -> Iterator[CheckFinding]:
    for topic in letters:
        if topic not in found.partitions:
            told = "there is no topic for records that cannot be read"
            fix = "create it, or allow this user to; TTA_STREAM__DEAD_LETTER_TOPIC= (empty) wants none"
            yield CheckFinding("broker", topic, "warning", told, fix)
    if s.stream.output and s.stream.output not in found.partitions:
        fix = "create it, or allow this user to: what belongs there is dropped and counted"
        yield CheckFinding("broker", s.stream.output, "warning", "there is no topic for results", fix)


def _limit(topic: str, limit: int | None) -> CheckFinding:
    if limit is None:
        fix = "allow DESCRIBE_CONFIGS on the topic, or see max.message.bytes yourself"
        return CheckFinding(
            "broker", topic, "skipped", "the largest record that it takes cannot be asked", fix
        )
    told = f"takes records of {limit:,} bytes at most"
    if limit >= ADVISED_BYTES:
        return CheckFinding("broker", topic, "ok", told)
    fix = "raise max.message.bytes of the topic if requests of several images are logged"
    return CheckFinding("broker", topic, "warning", told, fix)


def _equal(partitions: dict[str, int], one: str, other: str) -> Iterator[CheckFinding]:
    if one in partitions and other in partitions and partitions[one] != partitions[other]:
        told = f"{one} has {partitions[one]} partitions, {other} {partitions[other]}"
        yield CheckFinding("broker", "partitions", "warning", told, EQUAL)
