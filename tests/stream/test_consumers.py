"""One contract for both sources, Kafka's by both clients; then what only one of them promises."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.parts.kafka.broker import await_metadata, broker, start, stop
from tta_agent.core.errors import ConfigError, StreamError
from tta_agent.core.stream_protocols import Producer, StreamConsumer
from tta_agent.core.types import Partition, RawRecord
from tta_agent.stream.embedded.consumer import EmbeddedProducer, EmbeddedStreamConsumer
from tta_agent.stream.embedded.groups import share
from tta_agent.stream.kafka.consumer import KafkaStreamConsumer, KafkaStreamProducer, ensure_topics
from tta_agent.stream.kafka.group_client import ClientName

LIMIT_S = 30.0  # generous: only a hang reaches it
PARTITIONS = 4
IGNORE_SOCKETS = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


class Backend:
    """Opens sources and producers of one kind on topics of its own, and closes what a test leaves open."""

    def __init__(self, source: Callable[..., StreamConsumer], producer: Callable[[], Producer]) -> None:
        self.topic = f"requests-{uuid.uuid4().hex[:8]}"
        self._source = source
        self._producer = producer
        self._opened: list[StreamConsumer | Producer] = []

    def source(self, group: str = "agent", start: str = "earliest", **options: object) -> StreamConsumer:
        """A member of a group that reads the topic."""
        self._opened.append(
            opened := self._source([self.topic], f"{self.topic}-{group}", start=start, **options)
        )
        return opened

    def producer(self) -> Producer:
        """A producer."""
        self._opened.append(opened := self._producer())
        return opened

    def put(self, *keys: str) -> None:
        """Append records with these keys, their values the key in capitals."""
        producer = self.producer()
        for key in keys:
            producer.send(self.topic, key.encode(), key.upper().encode())
        producer.flush()

    def close(self) -> None:
        """Close everything, also what a test has closed already."""
        for opened in self._opened:
            opened.close()


KINDS = ["embedded", *(pytest.param(one, marks=pytest.mark.kafka) for one in ("kafka", "confluent"))]


@pytest.fixture(params=KINDS)
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """Both kinds of log in turn, Kafka by each of its clients."""
    if request.param == "embedded":
        path = tmp_path / "log.db"
        backend = Backend(
            lambda *a, **k: EmbeddedStreamConsumer(path, *a, **k), lambda: EmbeddedProducer(path)
        )
    else:
        address = request.getfixturevalue("kafka")
        client = {"client": "confluent-kafka" if request.param == "confluent" else "kafka-python"}
        backend = Backend(
            lambda *a, **k: KafkaStreamConsumer(address, *a, **k, **client),
            lambda: KafkaStreamProducer(address),
        )
        ensure_topics(address, [backend.topic], PARTITIONS)
    yield backend
    backend.close()


@pytest.fixture
def leaves_sockets() -> Iterator[None]:
    """Kafka's client leaves the sockets of refused connections to the garbage collector: close them here."""
    before = open_sockets()
    yield
    for left in open_sockets() - before:
        left.close()


def open_sockets() -> set[socket.socket]:
    """All that this process has."""
    return {thing for thing in gc.get_objects() if type(thing) is socket.socket}


def take(source: StreamConsumer, count: int) -> list[RawRecord]:
    """Poll until `count` records have come, and check that no more come with them."""
    records: list[RawRecord] = []
    deadline_s = time.monotonic() + LIMIT_S
    while len(records) < count and time.monotonic() < deadline_s:
        records += source.poll(0.2)
    assert len(records) == count
    return records


def nothing_comes(source: StreamConsumer) -> bool:
    """Whether two polls stay empty."""
    return not [*source.poll(0.3), *source.poll(0.3)]


def settle(*sources: StreamConsumer, until: Callable[[], bool] | None = None) -> None:
    """Poll all members, expecting no records, until they own something (or `until` holds)."""
    done = until or (lambda: all(source.assignment() for source in sources))
    deadline_s = time.monotonic() + LIMIT_S
    while not done() and time.monotonic() < deadline_s:
        for source in sources:
            assert not source.poll(0.05)
    assert done()


def split_evenly(first: StreamConsumer, second: StreamConsumer) -> bool:
    """Whether each of two members has half of the partitions."""
    return len(first.assignment()) == len(second.assignment()) == PARTITIONS // 2


def keys(records: Sequence[RawRecord]) -> list[str]:
    """Sorted, because partitions come in any order."""
    return sorted((record.key or b"").decode() for record in records)


def ends(records: Sequence[RawRecord]) -> dict[Partition, int]:
    """The positions after these records."""
    return {(r.topic, r.partition): r.offset + 1 for r in sorted(records, key=lambda r: r.offset)}


def some_keys(count: int, prefix: str = "k") -> list[str]:
    """Keys enough to reach every partition."""
    return [f"{prefix}{i:03}" for i in range(count)]


def test_order_holds_within_a_partition(log: Backend) -> None:
    producer = log.producer()
    for number in range(200):
        producer.send(log.topic, b"key-%d" % (number % 20), b"%d" % number)
    producer.flush()
    records = take(log.source(), 200)
    by_partition = itertools.groupby(sorted(records, key=lambda r: r.partition), key=lambda r: r.partition)
    parts = [list(part) for _, part in by_partition]
    assert len(parts) == PARTITIONS
    for part in parts:
        assert [r.offset for r in part] == list(range(len(part)))
        assert [int(r.value or b"") for r in part] == sorted(int(r.value or b"") for r in part)


def test_equal_keys_share_a_partition(log: Backend) -> None:
    log.put("a", "b", "a", "c", "a")
    assert len({r.partition for r in take(log.source(), 5) if r.key == b"a"}) == 1


@pytest.mark.parametrize("key", [None, b"", b"\x00key\xff"])
@pytest.mark.parametrize("value", [None, b"", b"\x00value\xff"])
def test_every_byte_comes_back(log: Backend, key: bytes | None, value: bytes | None) -> None:
    headers = (("ce_id", b"1"), ("ce_id", b"again"), ("empty", b""), ("näme", bytes(range(256))))
    before_ms = time.time() * 1000
    producer = log.producer()
    producer.send(log.topic, key, value, headers)
    producer.send(log.topic, key, value)
    producer.flush()
    first, second = sorted(take(log.source(), 2), key=lambda r: -len(r.headers))
    assert (first.topic, first.key, first.value, first.headers) == (log.topic, key, value, headers)
    assert (second.key, second.value, second.headers) == (key, value, ())
    assert before_ms - 2000 < first.timestamp_ms < time.time() * 1000 + 2000


def test_records_without_key_use_all_partitions_in_the_long_run(log: Backend) -> None:
    producer = log.producer()
    for _ in range(40):
        producer.send(log.topic, None, b"x" * 1000)
        producer.flush()  # Kafka's client changes the partition with each batch
    assert len({r.partition for r in take(log.source(), 40)}) > 1


def test_start_latest_sees_only_what_comes_later(log: Backend) -> None:
    log.put(*some_keys(20, "old"))
    source = log.source(start="latest")
    settle(source, until=lambda: len(source.assignment()) == PARTITIONS)
    log.put(*some_keys(20, "new"))
    assert keys(take(source, 20)) == some_keys(20, "new")


def test_start_earliest_sees_everything(log: Backend) -> None:
    log.put("a", "b")
    assert keys(take(log.source(start="earliest"), 2)) == ["a", "b"]


@pytest.mark.parametrize("start", ["earliest", "latest"])
def test_the_next_member_goes_on_after_the_commit(log: Backend, start: str) -> None:
    log.put(*some_keys(20))
    source = log.source()
    source.commit(ends(take(source, 20)))
    source.close()
    log.put("later")
    assert keys(take(log.source(start=start), 1)) == ["later"]


def test_what_was_not_committed_comes_again(log: Backend) -> None:
    log.put(*some_keys(20))
    source = log.source()
    half = take(source, 20)[:10]
    source.commit(ends(half))
    source.close()
    again = take(log.source(), 20 - sum(ends(half).values()))
    assert not {(r.partition, r.offset) for r in again} & {(r.partition, r.offset) for r in half}


def test_groups_do_not_see_each_other(log: Backend) -> None:
    log.put("a")
    first = log.source("one")
    first.commit(ends(take(first, 1)))
    assert keys(take(log.source("two"), 1)) == ["a"]


def test_seek_before_the_first_poll_wins_over_the_commit(log: Backend) -> None:
    log.put(*some_keys(40))
    source = log.source()
    records = take(source, 40)
    source.commit(ends(records))
    source.close()
    again = log.source(start="latest")
    again.seek({(log.topic, partition): 1 for partition in range(PARTITIONS)})
    expected = [r for r in records if r.offset >= 1]
    assert keys(take(again, len(expected))) == keys(expected)
    assert nothing_comes(again)


def test_seek_while_reading(log: Backend) -> None:
    log.put(*some_keys(20))
    source = log.source()
    records = take(source, 20)
    source.seek({p: 0 for p in ends(records)})
    assert keys(take(source, 20)) == keys(records)
    source.seek({p: end - 1 for p, end in ends(records).items()})
    assert len(take(source, PARTITIONS)) == PARTITIONS


def test_seek_holds_for_partitions_that_come_later(log: Backend) -> None:
    log.put(*some_keys(40))
    first = log.source()
    records = take(first, 40)
    first.commit(ends(records))
    second = log.source()
    second.seek({p: end - 1 for p, end in ends(records).items()})
    polled = [*second.poll(0.2)]
    first.close()
    assert len([*polled, *take(second, PARTITIONS - len(polled))]) == PARTITIONS
    assert nothing_comes(second)


def test_a_paused_source_loses_nothing(log: Backend) -> None:
    source = log.source()
    log.put("a")
    take(source, 1)
    source.pause()
    source.pause()
    log.put(*some_keys(20))
    assert nothing_comes(source)
    assert source.lag() == 20
    source.resume()
    source.resume()
    assert keys(take(source, 20)) == some_keys(20)


def test_paused_before_the_first_poll(log: Backend) -> None:
    log.put("a")
    source = log.source()
    source.pause()
    settle(source)
    assert nothing_comes(source)
    source.resume()
    assert keys(take(source, 1)) == ["a"]


def test_order_holds_through_many_pauses(log: Backend) -> None:
    source = log.source(max_records=7)
    log.put("first")
    found = take(source, 1)
    log.put(*some_keys(200))
    for _ in range(40):
        source.pause()
        assert not source.poll(0.0)
        source.resume()
        found += source.poll(0.05)
    found += take(source, 201 - len(found))
    for partition in range(PARTITIONS):
        offsets = [r.offset for r in found if r.partition == partition]
        assert offsets == list(range(len(offsets)))


def test_a_paused_member_gives_partitions_away(log: Backend) -> None:
    first = log.source()
    log.put("a")
    take(first, 1)
    first.commit(first.positions())
    first.pause()
    log.put(*some_keys(400))
    assert nothing_comes(first)
    second, got = log.source(), []
    deadline_s = time.monotonic() + LIMIT_S
    while not split_evenly(first, second) and time.monotonic() < deadline_s:
        assert not first.poll(0.05)
        got += second.poll(0.05)
    assert split_evenly(first, second)
    first.resume()
    mine, rest = take_all(first, second, count=400 - len(got))
    assert keys([*mine, *got, *rest]) == some_keys(400)


def test_lag_counts_what_is_left_to_read(log: Backend) -> None:
    log.put(*some_keys(30))
    source = log.source(max_records=10)
    seen = 0
    while seen < 30:
        seen += len(source.poll(0.2))
        assert source.lag() == (30 - seen if source.assignment() else 0)
    log.put("a", "b")
    assert source.lag() == 2


def test_a_poll_returns_no_more_than_asked_for(log: Backend) -> None:
    log.put(*some_keys(50))
    source = log.source(max_records=7)
    sizes: list[int] = []
    deadline_s = time.monotonic() + LIMIT_S
    while sum(sizes) < 50 and time.monotonic() < deadline_s:
        sizes.append(len(source.poll(0.2)))
    assert max(sizes) == 7
    assert sum(sizes) == 50


def test_members_split_the_partitions_and_inherit_them(log: Backend) -> None:
    first, second = log.source(), log.source()
    settle(first, second, until=lambda: split_evenly(first, second))
    assert sorted([*first.assignment(), *second.assignment()]) == [(log.topic, n) for n in range(PARTITIONS)]
    log.put(*some_keys(40))
    mine = take_all(first, second, count=40)
    for source, records in ((first, mine[0]), (second, mine[1])):
        assert {(r.topic, r.partition) for r in records} == set(source.assignment())
        source.commit(ends(records))
    second.close()
    settle(first, until=lambda: len(first.assignment()) == PARTITIONS)
    log.put(*some_keys(40, "later"))
    assert keys(take(first, 40)) == some_keys(40, "later")


def test_positions_outlive_a_rebalance(log: Backend) -> None:
    """Nothing was committed, so what a member keeps must go on where it was."""
    log.put(*some_keys(40))
    first = log.source()
    records = take(first, 40)
    second = log.source(start="latest")
    received: list[RawRecord] = []
    deadline_s = time.monotonic() + LIMIT_S
    while not split_evenly(first, second) and time.monotonic() < deadline_s:
        received += [*first.poll(0.05), *second.poll(0.05)]
    kept = first.assignment()
    assert split_evenly(first, second)
    assert not [r for r in received if (r.topic, r.partition) in kept]
    assert len(records) == 40


def test_commits_of_others_partitions_are_ignored(log: Backend) -> None:
    log.put(*some_keys(40))
    first, second = log.source(), log.source()
    deadline_s = time.monotonic() + LIMIT_S
    while not split_evenly(first, second) and time.monotonic() < deadline_s:
        first.poll(0.05)
        second.poll(0.05)
    first.commit({p: 1 for p in second.assignment()} | {("elsewhere", 0): 7})
    first.commit({})
    first.close()
    second.close()
    assert len(take(log.source(), 40)) == 40


def test_close_twice(log: Backend) -> None:
    source, producer = log.source(), log.producer()
    source.poll(0.1)
    producer.send(log.topic, b"k", b"v")
    for _ in range(2):
        source.close()
        producer.close()
    assert keys(take(log.source(), 1)) == ["k"]


def test_poll_returns_in_time(log: Backend) -> None:
    source = log.source()
    for timeout_s in (0.0, 0.1, 0.5):
        started_s = time.monotonic()
        assert not source.poll(timeout_s)
        assert time.monotonic() - started_s < timeout_s + 2.0


def take_all(*sources: StreamConsumer, count: int) -> list[list[RawRecord]]:
    """Poll all members in turn until `count` records have come altogether."""
    taken: list[list[RawRecord]] = [[] for _ in sources]
    deadline_s = time.monotonic() + LIMIT_S
    while sum(map(len, taken)) < count and time.monotonic() < deadline_s:
        for records, source in zip(taken, sources, strict=True):
            records += source.poll(0.05)
    assert sum(map(len, taken)) == count
    return taken


PRODUCE = """
import sys
from tta_agent.stream.embedded.consumer import EmbeddedProducer
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
producer = EmbeddedProducer(path)
for i in range(count):
    producer.send("requests", None, b"%s-%d" % (name.encode(), i))
    if i % 20 == 19:
        producer.flush()
        print(i + 1, flush=True)
producer.close()
"""


def start_producer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    """A producer in a process of its own; says how many records are durable."""
    command = [sys.executable, "-c", PRODUCE, str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_embedded_two_processes_produce_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    producers = [start_producer(path, name, 2000) for name in ("a", "b")]
    source = EmbeddedStreamConsumer(path, ["requests"], "agent", start="earliest")
    records = take(source, 4000)
    source.close()
    for process in producers:
        process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0
    assert {r.value for r in records} == {b"%s-%d" % (n, i) for n in (b"a", b"b") for i in range(2000)}
    for partition in range(PARTITIONS):
        offsets = [r.offset for r in records if r.partition == partition]
        assert offsets == list(range(len(offsets)))


def test_embedded_a_killed_producer_leaves_a_readable_log(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    process = start_producer(path, "a", 10_000_000)
    assert process.stdout is not None
    durable = [int(process.stdout.readline()) for _ in range(5)][-1]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=LIMIT_S)
    producer = EmbeddedProducer(path)
    producer.send("requests", b"last", b"last")
    producer.close()
    source = EmbeddedStreamConsumer(path, ["requests"], "agent", start="earliest", max_records=100_000)
    values = [r.value for r in source.poll(LIMIT_S)]
    source.close()
    assert {b"a-%d" % i for i in range(durable)} | {b"last"} <= set(values)
    assert len(values) == len(set(values))


def test_embedded_a_silent_member_loses_its_partitions(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    silent = EmbeddedStreamConsumer(path, ["requests"], "agent", session_timeout_s=0.3)
    settle(silent)
    other = EmbeddedStreamConsumer(path, ["requests"], "agent", session_timeout_s=0.3)
    settle(other, until=lambda: len(other.assignment()) == PARTITIONS)
    silent.commit({p: 5 for p in silent.assignment()})  # it does not know yet
    settle(silent, other, until=lambda: split_evenly(silent, other))
    with sqlite3.connect(path) as file:
        stored = file.execute("SELECT position, count(*) FROM commits GROUP BY position").fetchall()
    assert stored == [(0, PARTITIONS)], "where the group began, and nothing of the silent one"
    file.close()
    silent.close()
    other.close()


def test_embedded_a_partition_never_has_two_owners(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    busy, other = (EmbeddedStreamConsumer(path, ["requests"], "agent") for _ in range(2))
    settle(busy)
    assert not other.poll(0.2)
    assert (len(busy.assignment()), len(other.assignment())) == (PARTITIONS, 0)
    settle(busy, other, until=lambda: split_evenly(busy, other))
    assert not {*busy.assignment()} & {*other.assignment()}
    busy.close()
    other.close()


@pytest.mark.parametrize("members", [1, 2, 3, 4, 5])
def test_embedded_shares_are_fair_and_complete(members: int) -> None:
    partitions: list[Partition] = [("t", number) for number in range(PARTITIONS)]
    names = [f"m{i}" for i in range(members)]
    shares = [share(partitions, names, name) for name in names]
    assert sorted(itertools.chain(*shares)) == partitions
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_embedded_keeps_the_newest_records(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    producer = EmbeddedProducer(path, partitions=1, retention_records=10)
    source = EmbeddedStreamConsumer(path, ["t"], "agent", start="earliest")
    for number in range(25):
        producer.send("t", None, b"%d" % number)
    producer.close()
    source.seek({("t", 0): 3})
    records = take(source, 10)
    assert [(r.offset, r.value) for r in records] == [(n, b"%d" % n) for n in range(15, 25)]
    source.seek({("t", 0): 3})
    assert source.lag() == 10
    source.close()


def test_embedded_keeps_no_more_bytes_than_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    producer = EmbeddedProducer(path, partitions=1, retention_bytes=1 << 20)
    for _ in range(64):
        for _ in range(4):
            producer.send("t", None, bytes(100_000))
        producer.flush()
    producer.send("t", None, bytes(3 << 20))
    producer.close()
    assert path.stat().st_size < 16 << 20
    source = EmbeddedStreamConsumer(path, ["t"], "agent", start="earliest")
    assert [len(r.value or b"") for r in take(source, 1)] == [3 << 20]
    source.close()


def test_embedded_a_poll_ends_with_the_record_that_fills_it(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    producer = EmbeddedProducer(path)
    for _ in range(10):
        producer.send("t", None, bytes(1000))
    producer.close()
    source = EmbeddedStreamConsumer(path, ["t"], "agent", start="earliest", max_bytes=2500)
    assert [len(source.poll(0.1)) for _ in range(5)] == [3, 3, 3, 1, 0]
    source.close()


def test_embedded_a_replaced_log_is_read_from_the_start(tmp_path: Path) -> None:
    producer = EmbeddedProducer(tmp_path / "log.db", partitions=1)
    producer.send("t", None, b"new")
    producer.close()
    source = EmbeddedStreamConsumer(tmp_path / "log.db", ["t"], "agent", start="earliest")
    source.seek({("t", 0): 1000})
    assert [r.value for r in take(source, 1)] == [b"new"]
    source.close()


def test_embedded_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    path.write_bytes(b"this is no database, and long enough to have a header" * 100)
    for make in (lambda: EmbeddedProducer(path), lambda: EmbeddedStreamConsumer(path, ["t"], "agent")):
        with pytest.raises(StreamError, match=r"log\.db .*\n.*move it") as caught:
            make()
        assert str(caught.value).count("\n") <= 2


def test_embedded_damage_in_the_middle_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    producer = EmbeddedProducer(path)
    for _ in range(100):
        producer.send("t", None, bytes(10_000))
    producer.close()
    with path.open("r+b") as file:
        file.seek(10 * 16384)
        file.write(b"\xff" * 40 * 16384)
    source = EmbeddedStreamConsumer(path, ["t"], "agent", start="earliest")
    with pytest.raises(StreamError, match="malformed"):
        take(source, 100)
    source.close()


def test_embedded_refuses_the_database_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE theirs (x)")
    file.close()
    with pytest.raises(StreamError, match="another program"):
        EmbeddedProducer(path)


def test_embedded_an_impossible_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StreamError, match="check that its folder exists"):
        EmbeddedProducer(tmp_path / "file" / "log.db")


def test_embedded_a_failed_write_is_told_and_made_good(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    producer = EmbeddedProducer(path)
    producer.send("t", b"k", b"first")
    producer.flush()
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("ALTER TABLE records RENAME TO hidden")
    producer.send("t", b"k", b"second")
    with pytest.raises(StreamError, match="embedded log"):
        producer.flush()
    blocker.execute("ALTER TABLE hidden RENAME TO records")
    blocker.close()
    deadline_s = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline_s:
        try:
            producer.send("t", b"k", b"third")
            break
        except StreamError:
            time.sleep(0.05)
    producer.close()
    source = EmbeddedStreamConsumer(path, ["t"], "agent", start="earliest")
    assert [r.value for r in take(source, 3)] == [b"first", b"second", b"third"]
    source.close()


@pytest.mark.usefixtures("leaves_sockets")
@IGNORE_SOCKETS
def test_kafka_an_unreachable_broker_is_named_soon(client: ClientName) -> None:
    started_s = time.monotonic()
    for make in (
        lambda: KafkaStreamConsumer("127.0.0.1:1", ["t"], "agent", connect_timeout_s=2.0, client=client),
        unreachable_producer,
    ):
        with pytest.raises(StreamError, match=r"127\.0\.0\.1:1 .*\n.*ECONNREFUSED.*\ncheck") as caught:
            make()
        assert str(caught.value).count("\n") <= 2
    assert time.monotonic() - started_s < 10.0


def unreachable_producer() -> None:
    KafkaStreamProducer("127.0.0.1:1", connect_timeout_s=2.0)


@pytest.mark.usefixtures("leaves_sockets")
@IGNORE_SOCKETS
def test_kafka_an_unknown_host_is_named(client: ClientName) -> None:
    with pytest.raises(StreamError, match="check the host name"):
        KafkaStreamConsumer("no-such-host.invalid:9092", ["t"], "agent", connect_timeout_s=1.0, client=client)


def test_kafka_an_unknown_option_is_named(client: ClientName) -> None:
    wrong = {"sasl_mechanisms": "PLAIN"}
    with pytest.raises(ConfigError, match="sasl_mechanism"):
        KafkaStreamConsumer("127.0.0.1:1", ["t"], "agent", client_options=wrong, client=client)


@pytest.mark.kafka
def test_kafka_ensure_topics_keeps_what_is_there(kafka: str) -> None:
    name = f"t-{uuid.uuid4().hex[:8]}"
    ensure_topics(kafka, [name], 2)
    ensure_topics(kafka, [name, f"{name}-more"], 3)
    source = KafkaStreamConsumer(kafka, [name, f"{name}-more"], name)
    settle(source, until=lambda: len(source.assignment()) == 5)
    source.close()


@pytest.mark.kafka
def test_kafka_a_missing_topic_is_named(kafka: str) -> None:
    producer = KafkaStreamProducer(kafka, connect_timeout_s=1.0)
    with pytest.raises(StreamError, match="no-such-topic"):
        producer.send("no-such-topic", b"k", b"v")
    producer.close()


@pytest.mark.kafka
def test_kafka_very_short_polls_get_their_partitions(kafka: str, client: ClientName) -> None:
    """The client forgets joins that outlast a poll; with new topics each time it meets them on its way."""
    for _ in range(8):
        name = f"t-{uuid.uuid4().hex[:8]}"
        ensure_topics(kafka, [name], PARTITIONS)
        source = KafkaStreamConsumer(kafka, [name], name, client=client)
        deadline_s = time.monotonic() + LIMIT_S
        while len(source.assignment()) < PARTITIONS and time.monotonic() < deadline_s:
            source.poll(0.003)
        assert len(source.assignment()) == PARTITIONS
        source.close()


@pytest.mark.kafka
@pytest.mark.slow
@IGNORE_SOCKETS
@pytest.mark.usefixtures("kafka", "leaves_sockets")
def test_kafka_a_broker_that_goes_and_comes_back(tmp_path: Path, client: ClientName) -> None:
    with broker(tmp_path) as address:
        ensure_topics(address, ["t"], PARTITIONS)
        source = KafkaStreamConsumer(
            address, ["t"], "patient", start="earliest", silence_limit_s=300.0, client=client
        )
        hasty = KafkaStreamConsumer(address, ["t"], "hasty", silence_limit_s=3.0, client=client)
        producer = KafkaStreamProducer(address, delivery_timeout_s=120.0)
        producer.send("t", b"k", b"before")
        records = take(source, 1)
    with pytest.raises(StreamError, match=f"{address} did not answer"):
        take(hasty, 1)
    assert nothing_comes(source)
    source.commit(ends(records))  # is dropped
    assert source.lag() == 0
    producer.send("t", b"k", b"meanwhile")
    process = start(tmp_path / "server.properties", tmp_path)
    try:
        await_metadata(address, process, tmp_path / "broker.log", {})
        assert [r.value for r in take(source, 1)] == [b"meanwhile"]
        for opened in (source, hasty, producer):
            opened.close()
    finally:
        stop(process)
