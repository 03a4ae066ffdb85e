"""The topic of results: what stands in it, how large it is, and what happens where the log is away."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.parts import serving
from tests.pipeline.test_agent import Running, World, until
from tta_agent.adaptation.result import StepResult
from tta_agent.assembly.results import flushed_before
from tta_agent.core.types import Array, Record, StepReport
from tta_agent.pipeline import checkpoint
from tta_agent.stream import factory
from tta_agent.stream.batcher import Batch
from tta_agent.stream.kafka.consumer import ensure_topics
from tta_agent.stream.results import ResultWriter

FULL_ROUNDS = {"TTA_MODE": "shadow", "TTA_ADAPT__MAX_WAIT_S": "600"}  # none of fewer records, however slow


def result(logits: Array) -> StepResult:
    n = len(logits)
    scores = [np.full(n, value, np.float32) for value in (0.123456789, 0.75, np.nan)]
    return StepResult(logits, *scores, {}, StepReport(n, n, None))


def batch(n: int, served: Array | None, version: int | None = 0) -> Batch:
    x = np.zeros((1, 2, 2), np.float32)
    place = ("k", None, "inference", 3)
    return Batch(
        tuple(
            Record(f"r{i}", 5.0, x, None if served is None else served[i], version, *place, 40 + i)
            for i in range(n)
        )
    )


def written(logits: Array, served: Array | None, version: int | None = 0) -> list[tuple[dict[str, Any], Any]]:
    producer = serving.FakeProducer()
    writer = ResultWriter(producer, "results", clock=lambda: 7.0)
    writer.write(batch(len(logits), served, version), result(logits))
    writer.close()
    assert all(topic == "results" for topic, *_ in producer.sent)
    return [
        (
            {"key": key, "bytes": len(value or b""), **{name: text.decode() for name, text in headers}},
            json.loads(value or b""),
        )
        for _, key, value, headers in producer.sent
    ]


def test_a_result_says_which_record_what_was_served_and_what_the_copy_answers() -> None:
    logits = np.array([[1.0, 2.0, 0.123456789], [3.0, -1.0, 0.0]], np.float32)
    served = np.array([[1.0, 2.0, 0.0], [0.0, 5.0, 0.0]], np.float32)
    (about, one), (_, two) = written(logits, served)
    assert (about["key"], about["ce_id"], about["ce_type"]) == (b"r0", "r0", "io.tta.result.v1")
    assert (about["ce_subject"], about["ce_run"], about["content-type"]) == (
        "inference/3/40",
        "7000",
        "application/json",
    )
    assert (one["id"], one["time"], one["version"]) == ("r0", 5.0, 0)
    assert one["adapted"] == {
        "answer": 1, "entropy": 0.123457, "confidence": 0.75, "margin": None, "logits": [1.0, 2.0, 0.123457],
    }  # fmt: skip
    assert one["served"]["answer"] == 1 and 0.6 < one["served"]["confidence"] < 0.7
    assert (one["agrees"], two["agrees"], two["adapted"]["answer"]) == (True, False, 0)


def test_without_a_served_answer_nothing_is_said_about_it() -> None:
    ((_, one),) = written(np.eye(1, 3, dtype=np.float32), None, None)
    assert one["served"] is one["agrees"] is one["version"] is None


def test_sets_of_labels() -> None:
    logits = np.array([[[0.0, 1.0, 0.0], [1.0, 0.0, 2.0]]], np.float32)
    ((_, one),) = written(logits, logits)
    assert (
        one["adapted"]["answer"] == [0, 2]
        and one["adapted"]["logits"] == logits[0].tolist()
        and one["agrees"]
    )


@pytest.mark.parametrize("classes", [1000, 21_841])
def test_the_size_of_a_message_is_bounded(classes: int) -> None:
    logits = np.random.default_rng(0).normal(size=(1, classes)).astype(np.float32) * 1e-3
    ((about, one),) = written(logits, logits)
    assert about["bytes"] < 20_000
    if classes > 1000:
        assert "logits" not in one["adapted"] and len(one["adapted"]["best"]) == 10
        assert one["adapted"]["best"][0][0] == logits[0].argmax() == one["adapted"]["answer"]


def test_what_the_log_does_not_take_is_dropped_and_counted() -> None:
    producer = serving.FakeProducer()
    lost: list[tuple[str, int]] = []
    writer = ResultWriter(
        producer, "results", lambda kind, count: lost.append((kind, count)), close_timeout_s=0.1
    )
    producer.fails = True
    writer.write(batch(3, None), result(np.eye(3, dtype=np.float32)))
    writer.flush()
    assert lost == [("result", 1)] * 3
    producer.fails = False
    producer.gate.clear()
    for _ in range(20_000):
        writer.write(batch(1, None), result(np.eye(1, 3, dtype=np.float32)))
    assert len(lost) > 1000, "the queue is full"
    writer.flush()  # in its time
    producer.gate.set()
    writer.close()


def results(world: World, topic: str, count: int) -> list[tuple[str, int, dict[str, Any]]]:
    """Id, run and body of all results, once there are as many."""
    source = factory.open_source(world.settings, [topic], group=f"{topic}-reader-{count}")
    found: list[Any] = []
    until(lambda: len(found) >= count, lambda: found.extend(source.poll(0.5)))
    found += source.poll(0.5)
    source.close()
    heads = [dict(raw.headers) for raw in found]
    return [
        (head["ce_id"].decode(), int(head["ce_run"]), json.loads(raw.value))
        for head, raw in zip(heads, found, strict=True)
    ]


def results_before_and_after_a_crash(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = str(world.settings.stream.output)
    first = world.agent()
    with monkeypatch.context() as crash:  # nothing of what it did is kept
        crash.setattr(checkpoint, "save", lambda *_: None)
        crash.setattr(first.consumer, "commit", lambda positions: None)
        with Running(first):
            world.send(200)
            until(lambda: first.learner.adaptation.rounds >= 2)
    one = results(world, topic, 128)
    assert len({id for id, _, _ in one}) == len(one) == 64 * first.learner.adaptation.rounds
    assert len({run for _, run, _ in one}) == 1
    assert all(body["served"] and body["adapted"]["logits"] and body["version"] == 0 for _, _, body in one)
    second = world.agent()
    assert not second.resume()
    with Running(second):
        until(lambda: second.learner.adaptation.rounds >= first.learner.adaptation.rounds)
    both = results(world, topic, 2 * len(one))
    again = [(id, run) for id, run, _ in both if run > one[0][1]]
    assert {id for id, _ in again} >= {id for id, _, _ in one}, "read again, and said so"


@pytest.mark.slow
def test_results_are_written_at_least_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"TTA_STREAM__PARTITIONS": "1"}  # so that both read in the same order
    world = World(tmp_path, monkeypatch, TTA_STREAM__OUTPUT="results", **FULL_ROUNDS, **one)
    results_before_and_after_a_crash(world, monkeypatch)


@pytest.mark.kafka
def test_results_on_a_real_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kafka: str) -> None:
    name = f"results-{tmp_path.name}"
    world = World(tmp_path, monkeypatch, brokers=kafka, TTA_STREAM__OUTPUT=name, **FULL_ROUNDS)
    ensure_topics(kafka, [name, world.settings.stream.topic, world.settings.stream.labels_topic], 1)
    results_before_and_after_a_crash(world, monkeypatch)
    world.producer.close()


def test_a_checkpoint_waits_for_the_results_of_its_records() -> None:
    producer = serving.FakeProducer()
    writer = ResultWriter(producer, "results", close_timeout_s=20.0)
    producer.gate.clear()
    writer.write(batch(3, None), result(np.eye(3, dtype=np.float32)))
    threading.Timer(0.2, producer.gate.set).start()
    found: list[int] = []
    flushed_before(writer, lambda: found.append(len(producer.sent)))()
    assert found == [3], "the fence is asked after them"
    writer.close()
