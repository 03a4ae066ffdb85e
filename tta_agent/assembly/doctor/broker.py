"""Checks of the stream: broker, topics, rights, and how large a record may be."""

from __future__ import annotations

from collections.abc import Iterator

from tta_agent.assembly.build import dead_letter_topic
from tta_agent.assembly.doctor.finding import CheckFinding, Outcome
from tta_agent.core.errors import ConfigError
from tta_agent.settings.schema import Settings
from tta_agent.stream.factory import connection
from tta_agent.web.server import address, listen

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
    read = [t for t in (stream.topic, stream.responses_topic, stream.labels_topic) if t]
    letters = dead_letter_topic(s)
    written = [topic for topic in (letters, stream.output) if topic]
    found = describe(servers, [*read, *written], **connection(stream))
    yield CheckFinding("broker", servers, "ok", f"answers, and lists {found.listed} topics")
    for topic in read:
        if topic not in found.partitions:
            outcome: Outcome = "failure" if topic == stream.topic else "warning"
            told = "there is no such topic, or no right to see it"
            fix = (
                f"create it with {stream.partitions} partitions, and allow this user to READ and DESCRIBE it"
            )
            yield CheckFinding("broker", topic, outcome, told, fix)
            continue
        yield CheckFinding("broker", topic, "ok", f"{found.partitions[topic]} partitions")
        yield _limit(topic, found.limits.get(topic))
    if letters and letters not in found.partitions:
        told = "there is no topic for records that cannot be read"
        fix = "create it, or allow this user to; TTA_STREAM__DEAD_LETTER_TOPIC= (empty) wants none"
        yield CheckFinding("broker", letters, "warning", told, fix)
    if stream.output and stream.output not in found.partitions:
        fix = "create it, or allow this user to: what belongs there is dropped and counted"
        yield CheckFinding("broker", stream.output, "warning", "there is no topic for results", fix)
    yield from _equal(found.partitions, stream.topic, stream.labels_topic)
    for right, refused in found.refused.items():
        yield CheckFinding("broker", right, "failure", refused, "allow it to this user (Kafka ACLs)")


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
