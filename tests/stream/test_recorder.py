"""From topics to a recording: inferences and labels are read in turn, so that neither keeps the other waiting."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tta_agent.core.errors import ConfigError
from tta_agent.core.stream_protocols import Producer
from tta_agent.settings import env
from tta_agent.settings.schema import Settings
from tta_agent.stream import recorder
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.stream.factory import open_producer
from tta_agent.stream.kafka.consumer import ensure_topics
from tta_agent.stream.recorder import Recorded
from tta_agent.stream.recordings.reader import Recording, Row

LIMIT_S = 60.0  # only a hang reaches it
PAUSE_S = 0.004
X = np.zeros((1, 1, 2, 2), np.float32)


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Topics of their own on both kinds of log in turn."""
    topic = f"record-{uuid.uuid4().hex[:8]}"
    stream = {"topic": topic, "labels_topic": f"{topic}.labels"}
    if request.param == "kafka":
        stream["bootstrap_servers"] = request.getfixturevalue("kafka")
        ensure_topics(stream["bootstrap_servers"], [topic, stream["labels_topic"]], 4)
    return env.load(stream=stream, store={"path": tmp_path / "store"})


def infer(producer: Producer, settings: Settings, i: int) -> None:
    logits = np.zeros((1, 10), np.float32)
    sent = CloudEvents().encode_inference(f"r{i}", X, logits, 0, source="test", model="m", time_s=100.0 + i)
    producer.send(settings.stream.topic, *sent)


def tell(producer: Producer, settings: Settings, i: int) -> None:
    producer.send(settings.stream.labels_topic, *CloudEvents().encode_label(f"r{i}", i % 10, 200.0 + i))


@contextmanager
def sending(settings: Settings, step: Callable[[Producer, int], None]) -> Iterator[threading.Thread]:
    """Call `step` with 0, 1, 2 ... without a pause until the block is left, or for a minute."""
    enough, started_s = threading.Event(), time.monotonic()

    def work() -> None:
        producer, i = open_producer(settings, []), 0
        while not enough.wait(PAUSE_S) and time.monotonic() - started_s < LIMIT_S:
            step(producer, i)
            producer.flush()
            i += 1
        producer.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield thread
    finally:
        enough.set()
        thread.join()


def put(settings: Settings, step: Callable[[Producer, int], None], count: int) -> None:
    """All at once, before anybody reads."""
    producer = open_producer(settings, [])
    for i in range(count):
        step(producer, i)
    producer.close()


def rows(folder: Path) -> list[Row]:
    """Of the recording, each of which has its own label or none."""
    found = list(Recording.open(folder))
    assert all(row.label in (None, int(row.id[1:]) % 10) for row in found)
    return found


def test_what_is_there_is_joined(settings: Settings, tmp_path: Path) -> None:
    put(settings, lambda producer, i: infer(producer, settings, i), 30)
    put(settings, lambda producer, i: tell(producer, settings, i), 20)
    seen: list[int] = []
    assert recorder.record(settings, tmp_path / "r", 1000, 0.5, seen.append) == Recorded(30)
    found = {row.id: row.label for row in rows(tmp_path / "r")}
    assert found == {f"r{i}": i % 10 if i < 20 else None for i in range(30)}
    assert seen == list(range(1, 31))


def test_no_more_than_asked_for(settings: Settings, tmp_path: Path) -> None:
    put(settings, lambda producer, i: infer(producer, settings, i), 30)
    assert recorder.record(settings, tmp_path / "r", 7, 0.5).records == len(rows(tmp_path / "r")) == 7


@pytest.mark.parametrize("count", [20, 1000], ids=["until the count", "until the end of the inferences"])
def test_labels_that_never_pause_do_not_keep_inferences_waiting(
    settings: Settings, tmp_path: Path, count: int
) -> None:
    put(settings, lambda producer, i: infer(producer, settings, i), 30)
    with sending(settings, lambda producer, i: tell(producer, settings, i)) as sender:
        assert recorder.record(settings, tmp_path / "r", count, 0.5) == Recorded(min(count, 30))
        assert sender.is_alive()  # it was not the end of the labels that let us go on
    assert len(rows(tmp_path / "r")) == min(count, 30)


def test_inferences_that_never_pause_do_not_keep_labels_waiting(settings: Settings, tmp_path: Path) -> None:
    def late(producer: Producer, i: int) -> None:
        infer(producer, settings, i)
        if i >= 300:  # by then, reading labels first would long have given up
            for known in range(300) if i == 300 else (i - 1,):
                tell(producer, settings, known)

    with sending(settings, late) as sender:
        assert recorder.record(settings, tmp_path / "r", 600, 0.2) == Recorded(600)
        assert sender.is_alive()
    labelled = {row.id for row in rows(tmp_path / "r") if row.label is not None}
    assert labelled >= {f"r{i}" for i in range(300)}


def test_what_waits_for_labels_is_bounded_and_keeps_its_order(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "WAITING_BYTES", 2000)
    most = [0]
    really = recorder._Unwritten.add

    def add(self: recorder._Unwritten, item: recorder.Record) -> None:
        really(self, item)
        most[0] = max(most[0], sum(one.nbytes for one in self._records))

    monkeypatch.setattr(recorder._Unwritten, "add", add)
    put(settings, lambda producer, i: infer(producer, settings, i), 30)
    assert recorder.record(settings, tmp_path / "r", 1000, 0.5) == Recorded(30)
    assert 0 < most[0] <= 2000
    assert len({row.id for row in rows(tmp_path / "r")}) == 30


def junk(producer: Producer, settings: Settings, value: bytes) -> None:
    producer.send(settings.stream.topic, b"k", value)


def test_unreadable_records_are_told_after_the_count(settings: Settings, tmp_path: Path) -> None:
    put(settings, lambda producer, i: infer(producer, settings, i), 30)
    put(settings, lambda producer, i: junk(producer, settings, b"junk"), 3)
    put(settings, lambda producer, i: junk(producer, settings, b'{"inputs": []}'), 1)
    put(settings, lambda producer, i: producer.send(settings.stream.labels_topic, b"k", b"?"), 2)
    done = recorder.record(settings, tmp_path / "r", 1000, 0.5)
    assert done.records == len(rows(tmp_path / "r")) == 30
    inferences, labels = done.unreadable
    topic = settings.stream.topic
    assert f"unreadable records of {topic}: 4 (3 unknown_format, 1 input_count)" in inferences
    every = "cloudevents, mlserver, seldon, claim_check, image, npy, oip_binary, oip_json, oip_proto"
    assert f"expects {every}; the first: " in inferences
    assert f"unreadable records of {topic}.labels: 2 (2 unknown_format)" in labels


def test_where_nothing_can_be_read_it_fails_and_leaves_no_folder(settings: Settings, tmp_path: Path) -> None:
    put(settings, lambda producer, i: infer(producer, settings, i), 5)
    settings = settings.model_copy(
        update={"stream": settings.stream.model_copy(update={"codec": "oip_json"})}
    )
    place = rf"{settings.stream.topic}\[\d\]@\d"
    with pytest.raises(
        ConfigError, match=rf"nothing to record.*: 5 \(5 json\).*expects oip_json.*{place}: head is"
    ):
        recorder.record(settings, tmp_path / "r", 1000, 0.5)
    assert not (tmp_path / "r").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError):
        recorder.record(settings, tmp_path / "mine", 1000, 0.5)
    assert (tmp_path / "mine").exists()  # it is the user's


@pytest.mark.parametrize("sent", ["nothing", "a label only"])
def test_record_of_nothing_writes_nothing(settings: Settings, tmp_path: Path, sent: str) -> None:
    producer = open_producer(settings, [])
    if sent == "a label only":
        tell(producer, settings, 0)
    producer.close()
    with pytest.raises(ConfigError, match=f"nothing to record: no inference is in {settings.stream.topic}"):
        recorder.record(settings, tmp_path / "r", 100, 0.3)
    assert not (tmp_path / "r").exists()


def test_a_folder_that_was_there_stays_and_stays_empty(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    settings = env.load(store={"path": tmp_path / "store"})
    open_producer(settings, []).close()
    with pytest.raises(ConfigError, match="nothing to record"):
        recorder.record(settings, tmp_path / "r", 100, 0.1)
    assert list((tmp_path / "r").iterdir()) == []


def test_a_misspelt_store_is_said_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no embedded log .*misspelt.log\.db \(TTA_STORE__PATH\)"):
        recorder.record(env.load(store={"path": tmp_path / "misspelt"}), tmp_path / "r", 100, 0.1)
    assert list(tmp_path.iterdir()) == []
