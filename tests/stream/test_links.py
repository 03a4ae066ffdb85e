"""Links to Kafka that fail: a partition, 200 ms each way, 1 Mbit/s; and members that come and go. Nothing is lost."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.conftest import require_or_skip
from tests.parts import links
from tests.parts.kafka import broker as kafka_broker
from tests.parts.serving import eventually
from tta_agent.stream.kafka.consumer import KafkaStreamConsumer, KafkaStreamProducer, ensure_topics
from tta_agent.stream.kafka.group_client import ClientName

pytestmark = [pytest.mark.kafka, pytest.mark.toxiproxy, pytest.mark.slow]
PARTITIONS = 6
CUT_S = float(os.environ.get("CUT_S", "5"))  # 30 where there is time
RECOVERY_S = 60.0
BODY = bytes(12_000)


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[links.Link]:
    """A broker that all clients reach through the link."""
    require_or_skip("kafka", kafka_broker.unavailable())
    require_or_skip("toxiproxy", links.unavailable())
    folder = tmp_path_factory.mktemp("links")
    with links.link(folder) as opened:
        advertised = f"advertised.listeners=CLIENTS://{opened.address}\n"
        with kafka_broker.broker(folder, advertised) as address:
            opened.to(address)
            yield opened


class Senders:
    """Sends numbered records, so many a second, until it is told to stop."""

    def __init__(self, address: str, topic: str, rate: float) -> None:
        self._producer = KafkaStreamProducer(address, delivery_timeout_s=120.0)
        self._topic, self._rate, self._stop = topic, rate, threading.Event()
        self.sent = 0
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while not self._stop.wait(1 / self._rate):
            self._producer.send(self._topic, b"%d" % self.sent, BODY)
            self.sent += 1

    def end(self) -> set[int]:
        """Numbers of all that were sent, once the brokers have them."""
        self._stop.set()
        self._thread.join()
        self._producer.close()
        return set(range(self.sent))


class Member:
    """Reads in a thread, and commits what it has read now and then, as the agent does after a checkpoint."""

    def __init__(self, address: str, topic: str, group: str, read: Counter[int], client: ClientName) -> None:
        self._source = KafkaStreamConsumer(
            address, [topic], group, start="earliest", silence_limit_s=120.0, client=client
        )
        self._read, self._stop = read, threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        committed_s = time.monotonic()
        while not self._stop.is_set():
            for raw in self._source.poll(0.2):
                self._read[int(raw.key or b"")] += 1
            if time.monotonic() - committed_s > 1.0:
                committed_s = time.monotonic()
                self._source.commit(self._source.positions())
        self._source.commit(self._source.positions())
        self._source.close()

    def end(self) -> None:
        """Commit, and leave the group."""
        self._stop.set()
        self._thread.join()


FAULTS = {
    "partition": ("timeout", {"timeout": 0}, 50.0),
    "latency": ("latency", {"latency": 200}, 50.0),
    "1 Mbit/s": ("bandwidth", {"rate": 125}, 15.0),  # KB/s; half of what is sent and read passes meanwhile
}


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost_on_a_link_that_fails(link: links.Link, fault: str, client: ClientName) -> None:
    kind, attributes, rate = FAULTS[fault]
    topic = f"t-{kind}-{client}"
    ensure_topics(link.address, [topic], PARTITIONS)
    read: Counter[int] = Counter()
    with contextlib.ExitStack() as opened:
        member = Member(link.address, topic, topic, read, client)
        opened.callback(member.end)
        senders = Senders(link.address, topic, rate)
        opened.callback(lambda: senders.end())
        eventually(lambda: len(read) > 20, 30.0)
        with link.failing(kind, **attributes):
            time.sleep(CUT_S)
        before = senders.sent
        eventually(lambda: senders.sent > before + 20 and len(read) > before + 20, RECOVERY_S)
        sent = senders.end()
        eventually(lambda: len(read) >= len(sent), RECOVERY_S)
    assert set(read) == sent


def test_six_partitions_with_members_that_come_and_go(link: links.Link, client: ClientName) -> None:
    topic = f"t-members-{client}"
    ensure_topics(link.address, [topic], PARTITIONS)
    read: Counter[int] = Counter()
    senders = Senders(link.address, topic, 50.0)
    members = [Member(link.address, topic, topic, read, client)]
    try:
        for change in ("join", "join", "leave", "join", "leave"):
            more = len(read) + 30
            eventually(lambda more=more: len(read) > more, 30.0)  # type: ignore[misc]
            if change == "join":
                members.append(Member(link.address, topic, topic, read, client))
            else:
                members.pop(0).end()
        sent = senders.end()
        eventually(lambda: len(read) >= len(sent), RECOVERY_S)
    finally:
        senders.end()
        for member in members:
            member.end()
    assert set(read) == sent
