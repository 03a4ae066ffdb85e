"""Messages that nobody waits for: never in the way, bounded, counted, and acknowledged before they count as sent."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.parts.serving import FakeProducer, eventually
from tta_agent.core.errors import MessageTooLarge, StreamError
from tta_agent.core.types import Done
from tta_agent.stream import outbox as module
from tta_agent.stream.embedded.consumer import EmbeddedProducer, EmbeddedStreamConsumer
from tta_agent.stream.outbox import Outbox

KINDS = {"letters": "dead_letter", "requests": "label_request"}


def opened(producer: Any, **options: Any) -> tuple[Outbox, Counter[str]]:
    lost: Counter[str] = Counter()
    return Outbox(producer, KINDS, lambda kind, count: lost.update({kind: count}), **options), lost


def test_a_log_that_hangs_keeps_nobody_waiting() -> None:
    producer = FakeProducer()
    producer.gate.clear()
    outbox, lost = opened(producer, capacity_bytes=10_000)
    for i in range(100):
        outbox.send("letters", b"%d" % i, bytes(1000))
    assert outbox.queued_bytes <= 10_000
    assert lost == {"dead_letter": outbox.counts["dropped"]}
    assert outbox.counts["dropped"] >= 94
    assert outbox.counts["sent"] == 0
    producer.gate.set()
    outbox.close()
    assert outbox.counts["sent"] == len(producer.sent) == 100 - outbox.counts["dropped"]


def test_each_kind_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    producer = FakeProducer()
    producer.fails = True
    outbox, lost = opened(producer)
    for _ in range(5):
        outbox.send("letters", b"k", b"v")
        outbox.send("requests", b"k", b"v")
    outbox.close()
    assert lost == {"dead_letter": 5, "label_request": 5}
    assert outbox.counts["errors"] == 10
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 2
    assert "dead_letter" in told[0] and "no broker" in told[0]


class Slow(FakeProducer):
    """Waits in vain for a topic that does not exist."""

    tried = 0

    def send(self, topic: str, *message: Any, on_done: Done | None = None) -> None:
        if topic == "letters":
            self.tried += 1
            threading.Event().wait(module.SLOW_S * 1.1)
            raise StreamError("no such topic")
        super().send(topic, *message, on_done=on_done)


def test_a_topic_that_is_missing_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOW_S", 0.05)
    producer = Slow()
    outbox, lost = opened(producer)
    for i in range(50):
        outbox.send("letters", b"%d" % i, b"v")
        outbox.send("requests", b"%d" % i, b"v")
    outbox.close()
    assert (producer.tried, len(producer.sent)) == (1, 50)
    assert lost == {"dead_letter": 50}
    assert outbox.counts["sent"] == 50


class Late(FakeProducer):
    """Takes what it is given, and settles it later."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Done] = []

    def send(self, topic: str, *message: Any, on_done: Done | None = None) -> None:
        assert on_done is not None
        self.waiting.append(on_done)


def test_only_what_was_acknowledged_counts_as_sent() -> None:
    producer = Late()
    outbox, lost = opened(producer)
    for _ in range(3):
        outbox.send("letters", b"k", b"v")
    eventually(lambda: len(producer.waiting) == 3)
    assert outbox.counts["sent"] == 0
    told: list[Exception | None] = []
    outbox.send("letters", b"k", b"v", (), told.append)
    eventually(lambda: len(producer.waiting) == 4)
    producer.waiting[0](None)
    producer.waiting[1](StreamError("given up"))
    producer.waiting[2](MessageTooLarge("2 MB"))
    producer.waiting[3](None)
    assert dict(outbox.counts) == {"sent": 2, "dropped": 0, "errors": 1, "too_large": 1}
    assert lost == {"dead_letter": 1, "too_large": 1}
    assert told == [None]
    outbox.flush()
    outbox.close()


def test_what_cannot_be_encoded_is_an_error_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    outbox, lost = opened(FakeProducer())
    outbox.offer("letters", lambda: ("\ud800".encode(), b"", ()), 1)
    outbox.send("letters", b"k", b"v")
    outbox.close()
    assert dict(outbox.counts) == {"sent": 1, "dropped": 0, "errors": 1, "too_large": 0}
    assert lost == {"dead_letter": 1}


def test_in_replay_messages_are_sent_at_once() -> None:
    producer = FakeProducer()
    outbox, _ = opened(producer, threaded=False)
    outbox.send("letters", b"k", b"v", (("a", b"b"),))
    assert producer.sent == [("letters", b"k", b"v", (("a", b"b"),))]


def test_on_the_embedded_log_all_is_there_after_the_end(tmp_path: Path) -> None:
    producer = EmbeddedProducer(tmp_path / "log.db")
    outbox, lost = opened(producer)
    for i in range(50):
        outbox.send("letters", b"%d" % i, b"v")
    outbox.flush()
    assert outbox.counts["sent"] == 50
    outbox.close()
    consumer = EmbeddedStreamConsumer(tmp_path / "log.db", ["letters"], "g", start="earliest")
    assert len([*consumer.poll(1.0)]) == 50
    consumer.close()
    producer.close()
    assert not lost


def test_an_embedded_log_that_stays_broken_says_so_at_the_end(tmp_path: Path) -> None:
    producer = EmbeddedProducer(tmp_path / "log.db")
    producer._log.execute("DROP TABLE records")
    told: list[Exception | None] = []
    for _ in range(3):
        producer.send("letters", b"k", b"v", (), told.append)
    with pytest.raises(StreamError):
        producer.close()
    assert len(told) == 3 and all(isinstance(error, StreamError) for error in told)
