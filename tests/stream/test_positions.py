"""Nothing is passed over: partitions never read from, partitions that are added, topics that are made anew."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, OffsetAndMetadata, TopicPartition

from tests.stream.test_consumers import LIMIT_S, PARTITIONS, Backend, ends, keys, log, settle, some_keys, take
from tta_agent.core.stream_protocols import StreamConsumer
from tta_agent.core.types import RawRecord
from tta_agent.stream.embedded.consumer import EmbeddedProducer, EmbeddedStreamConsumer
from tta_agent.stream.kafka.consumer import KafkaStreamConsumer, KafkaStreamProducer, ensure_topics
from tta_agent.stream.kafka.group_client import ClientName

__all__ = ["log"]  # a fixture


def joined(source: StreamConsumer) -> StreamConsumer:
    settle(source, until=lambda: len(source.assignment()) == PARTITIONS)
    return source


def test_what_comes_while_nobody_reads_is_read_in_every_partition(log: Backend) -> None:
    """Only one partition is read from, and only that is committed; the group began at the end."""
    log.put(*some_keys(30, "before"))
    first = joined(log.source(start="latest"))
    log.put("one")
    first.commit(ends(take(first, 1)))
    first.close()
    log.put(*some_keys(120))
    assert keys(take(log.source(start="latest"), 120)) == some_keys(120)


def test_a_group_that_has_read_nothing_at_all_goes_on_where_it_began(log: Backend) -> None:
    log.put(*some_keys(30, "before"))
    joined(log.source(start="latest")).close()
    log.put(*some_keys(120))
    assert keys(take(log.source(start="latest"), 120)) == some_keys(120)


def test_positions_are_those_of_all_partitions(log: Backend) -> None:
    log.put(*some_keys(30, "before"))
    source = joined(log.source(start="latest"))
    before = dict(source.positions())
    assert len(before) == PARTITIONS and sum(before.values()) == 30
    log.put("one")
    after = {**before, **ends(take(source, 1))}
    assert source.positions() == after
    other = log.source("other", start="earliest")
    joined_at = lambda: sum(dict(other.positions()).values())  # noqa: E731
    take(other, 31)
    assert joined_at() == 31


def test_two_members_begin_together(log: Backend) -> None:
    """The second finds commits of the first, and takes its own partitions for old ones all the same."""
    log.put(*some_keys(40, "before"))
    members = [log.source(start="latest"), log.source(start="latest")]
    settle(*members, until=lambda: sum(len(m.assignment()) for m in members) == PARTITIONS)
    log.put(*some_keys(40))
    found: list[RawRecord] = []
    deadline_s = time.monotonic() + LIMIT_S
    while len(found) < 40 and time.monotonic() < deadline_s:
        for member in members:
            found += member.poll(0.1)
    assert keys(found) == some_keys(40)


# -- Kafka only ----------------------------------------------------------------------------------------------------


class Topics:
    """Topics of a broker, made and changed by hand."""

    def __init__(self, address: str, client: ClientName) -> None:
        self.address, self.client, self.name = address, client, f"t-{uuid.uuid4().hex[:8]}"
        self._admin = KafkaAdminClient(bootstrap_servers=address)
        self._producer = KafkaStreamProducer(address)
        self._opened: list[KafkaStreamConsumer] = []
        self.make(PARTITIONS)

    def make(self, partitions: int) -> None:
        ensure_topics(self.address, [self.name], partitions)

    def grow(self, partitions: int) -> None:
        self._admin.create_partitions({self.name: partitions})
        self._admin.wait_for_topics([self.name])
        self._producer.close()
        self._producer = KafkaStreamProducer(self.address)  # one that knows them all

    def drop(self) -> None:
        self._admin.delete_topics([self.name])
        until(lambda: self.name not in self._admin.list_topics())

    def prune(self, before: dict[TopicPartition, int]) -> None:
        """Delete records below these offsets, and wait until they are gone."""
        self._admin.delete_records(before)
        oldest = dict.fromkeys(before, -2)
        until(lambda: {p: o.offset for p, o in self._admin.list_partition_offsets(oldest).items()} == before)

    def put(self, *names: str) -> None:
        for name in names:
            self._producer.send(self.name, name.encode(), b"v")
        self._producer.flush()

    def source(self, start: str = "latest", group: str = "agents") -> KafkaStreamConsumer:
        group = f"{self.name}-{group}"
        opened = KafkaStreamConsumer(self.address, [self.name], group, start=start, client=self.client)  # type: ignore[arg-type]
        self._opened.append(opened)
        return opened

    def close(self) -> None:
        for opened in self._opened:
            opened.close()
        self._producer.close()
        self._admin.close()


@pytest.fixture
def topics(kafka: str, client: ClientName) -> Iterator[Topics]:
    opened = Topics(kafka, client)
    yield opened
    opened.close()


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.mark.kafka
@pytest.mark.parametrize("start", ["latest", "earliest"])
def test_partitions_that_are_added_are_read_from_their_first_record(topics: Topics, start: str) -> None:
    source = topics.source(start)
    joined(source)
    topics.put("one")
    source.commit(ends(take(source, 1)))
    topics.grow(8)
    topics.put(*some_keys(200))
    assert keys(take(source, 200)) == some_keys(200)
    assert len(source.assignment()) == 8


@pytest.mark.kafka
def test_partitions_that_are_added_while_nobody_reads(topics: Topics) -> None:
    topics.put(*some_keys(40, "before"))
    first = topics.source()
    joined(first)
    positions, ids = first.positions(), first.topic_ids()
    first.close()
    topics.grow(8)
    topics.put(*some_keys(200))
    second = topics.source()
    second.seek(positions, ids)
    assert keys(take(second, 200)) == some_keys(200)


def commit_by_hand(topics: Topics, note: str) -> None:
    """The group commits the beginning of partition 0, and nothing else."""
    member = KafkaConsumer(
        bootstrap_servers=topics.address, group_id=f"{topics.name}-agents", enable_auto_commit=False
    )
    member.assign([TopicPartition(topics.name, 0)])
    member.commit({TopicPartition(topics.name, 0): OffsetAndMetadata(0, note, -1)})
    member.close()


@pytest.mark.kafka
def test_a_group_of_an_older_agent_passes_over_nothing(topics: Topics) -> None:
    """It committed what it had read, and nothing else: it is not known where it was in the other partitions."""
    topics.put(*some_keys(40))
    commit_by_hand(topics, "")
    assert keys(take(topics.source(), 40)) == some_keys(40)


@pytest.mark.kafka
def test_a_member_that_begins_beside_another_begins_at_the_end(topics: Topics) -> None:
    """The other has been in all of today's partitions, and noted it: none of them was added."""
    topics.put(*some_keys(40))
    other = topics.source()
    joined(other)
    note = other._places.offset(TopicPartition(topics.name, 0), 0).metadata
    other.close()
    topics._admin.delete_group_offsets(
        f"{topics.name}-agents", [TopicPartition(topics.name, n) for n in range(4)]
    )
    commit_by_hand(topics, note)
    source = topics.source()
    found = poll_for(source, 2.0)
    topics.put("one")
    assert {record.partition for record in found} == {0}
    assert keys(take(source, 1)) == ["one"]


def poll_for(source: StreamConsumer, seconds: float) -> list[RawRecord]:
    found, until_s = [*source.poll(LIMIT_S)], time.monotonic() + seconds
    while time.monotonic() < until_s:
        found += source.poll(0.2)
    return found


@pytest.mark.kafka
def test_a_topic_that_is_made_anew_while_it_is_read(topics: Topics, caplog: pytest.LogCaptureFixture) -> None:
    source = topics.source()
    joined(source)
    topics.put(*some_keys(40, "old"))
    source.commit(ends(take(source, 40)))
    topics.drop()
    topics.make(PARTITIONS)
    topics.put(*some_keys(200, "new"))
    found: set[str] = set()
    until(lambda: found.update(keys(source.poll(0.2))) or len(found) == 200)  # some may come twice
    assert found == {*some_keys(200, "new")}
    assert caplog.text.count("was deleted and made anew") == 1


@pytest.mark.kafka
@pytest.mark.parametrize("known", [True, False])
def test_a_topic_that_was_made_anew_meanwhile(
    topics: Topics, caplog: pytest.LogCaptureFixture, known: bool
) -> None:
    """By its id; where that is not known, by positions beyond its end."""
    topics.put(*some_keys(40, "old"))
    first = topics.source("earliest")
    take(first, 40)
    positions, ids = first.positions(), first.topic_ids()
    assert list(ids) == [topics.name]
    first.close()
    topics.drop()
    topics.make(PARTITIONS)
    count = 200 if known else 4
    topics.put(*some_keys(count, "new"))
    second = topics.source()
    second.seek(positions, ids if known else {})
    assert keys(take(second, count)) == some_keys(count, "new")
    assert ("made anew" if known else "beyond its end") in caplog.text


@pytest.mark.kafka
def test_a_member_that_was_lost_goes_on_from_the_later_of_two_positions(topics: Topics) -> None:
    """Its own, or the group's, which somebody else may have read further meanwhile."""
    source = topics.source("earliest")
    topics.put(*some_keys(40))
    take(source, 40)

    def lost() -> None:
        mine = source._consumer.assignment()
        source._places.on_partitions_lost(mine)
        source._places.on_partitions_assigned(mine)

    lost()
    assert not poll_briefly(source), "it has committed nothing of these, and knows that it has read them"
    topics.put(*some_keys(40, "later"))
    ends_now = topics._admin.list_partition_offsets({TopicPartition(*p): -1 for p in source.positions()})
    source.commit({(p.topic, p.partition): found.offset for p, found in ends_now.items()})
    lost()
    assert not poll_briefly(source)


def poll_briefly(source: StreamConsumer) -> list[RawRecord]:
    return [raw for _ in range(5) for raw in source.poll(0.2)]


@pytest.mark.kafka
def test_records_that_were_pruned_unread_are_no_reason_to_go_to_the_end(topics: Topics) -> None:
    topics.put(*some_keys(100, "old"))
    first = topics.source("earliest")
    take(first, 100)
    positions = first.positions()
    first.close()
    topics.put(*some_keys(100))
    cut = {TopicPartition(*p): n + 5 for p, n in positions.items()}
    topics.prune(cut)
    second = topics.source()
    second.seek(positions)
    assert len(take(second, 100 - 5 * PARTITIONS)) == 80


@pytest.mark.kafka
def test_records_that_are_pruned_while_the_member_is_paused(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    if topics.client == "confluent-kafka":  # which goes on fetching through a short pause
        monkeypatch.setattr("tta_agent.stream.kafka.confluent.fetching.STOP_AFTER_S", 0.0)
    source = topics.source()
    joined(source)
    topics.put("one")
    take(source, 1)
    source.pause()
    source.poll(1.0)  # a fetch that was under way has come back
    topics.put(*some_keys(600))
    ends_now = topics._admin.list_partition_offsets({TopicPartition(*p): -1 for p in source.positions()})
    topics.prune({p: found.offset - 5 for p, found in ends_now.items()})
    source.resume()
    assert len(take(source, 5 * PARTITIONS)) == 20


# -- the embedded log only -----------------------------------------------------------------------------------------


def test_embedded_a_log_that_was_replaced_is_read_from_its_beginning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    positions, ids = replaced(tmp_path, 5, 50)
    source = EmbeddedStreamConsumer(tmp_path / "log.db", ["t"], "agent", start="latest")
    source.seek(positions, ids)
    assert len(take(source, 50)) == 50
    source.close()
    assert "was replaced" in caplog.text


def test_embedded_positions_beyond_the_end_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    positions, _ = replaced(tmp_path, 50, 5)
    source = EmbeddedStreamConsumer(tmp_path / "log.db", ["t"], "agent", start="latest")
    source.seek(positions)
    assert len(take(source, 5)) == 5
    source.close()
    assert "beyond its end" in caplog.text


def replaced(folder: Path, before: int, after: int) -> tuple[dict[tuple[str, int], int], dict[str, str]]:
    """Read a log to its end, and put another one in its place; the positions and ids of the first."""
    for count in (before, after):
        producer = EmbeddedProducer(folder / "log.db", partitions=1)
        for i in range(count):
            producer.send("t", None, b"%d" % i)
        producer.close()
        if count == after:
            break
        source = EmbeddedStreamConsumer(folder / "log.db", ["t"], "agent", start="earliest")
        take(source, count)
        positions, ids = dict(source.positions()), dict(source.topic_ids())
        source.close()
        for path in folder.glob("log.db*"):
            path.unlink()
    return positions, ids


def test_embedded_a_log_of_before_gets_an_identity(tmp_path: Path) -> None:
    producer = EmbeddedProducer(tmp_path / "log.db")
    producer._log.execute("DELETE FROM generations")
    producer.send("t", None, b"v")
    producer.close()
    ids = []
    for _ in range(2):
        source = EmbeddedStreamConsumer(tmp_path / "log.db", ["t"], "agent")
        ids.append(dict(source.topic_ids()))
        source.close()
    assert ids[0] == ids[1] and int(ids[0]["t"]) > 0
