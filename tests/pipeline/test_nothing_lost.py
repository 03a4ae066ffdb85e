"""What arrives while the agent is down is read by the next one, in every partition and on both streams."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.test_agent import Running, World, until
from tta_agent.labels.store import read_counts
from tta_agent.stream.codecs import oip
from tta_agent.stream.codecs.cloudevents import CloudEvents

LATEST = {"TTA_MODE": "observe", "TTA_STREAM__START": "latest", "TTA_MODEL__CHECK_SERVED": "false"}
X, Z = np.zeros((1, 1, 28, 28), np.float32), np.zeros((1, 10), np.float32)


def send(world: World, names: range, *, what: str) -> None:
    """Inferences, labels, or both, under the ids r<number>."""
    for i in names:
        if what in ("inferences", "both"):
            event = CloudEvents().encode_inference(
                f"r{i}", X, Z, 0, source="t", model="m", time_s=time.time()
            )
            world.producer.send(world.settings.stream.topic, *event)
        if what in ("labels", "both"):
            label = CloudEvents().encode_label(f"r{i}", 1, time.time())
            world.producer.send(world.settings.stream.labels_topic, *label)
    world.producer.flush()


def counts(world: World, name: str) -> int:
    return read_counts(world.settings.store.path / "labels.db")[0].get(name, 0)


def fresh(agent) -> int:
    return agent.learner.router.label_counts["matched"]


@pytest.mark.slow
@pytest.mark.parametrize("brokers", [None, pytest.param("kafka", marks=pytest.mark.kafka)])
@pytest.mark.parametrize("read_before", [0, 1])
def test_labels_and_inferences_that_come_while_the_agent_is_down(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    brokers: str | None,
    read_before: int,
) -> None:
    """One partition at most has been read from when the agent ends."""
    address = request.getfixturevalue(brokers) if brokers else None
    world = World(tmp_path, monkeypatch, brokers=address, **LATEST)
    first = world.agent()
    with Running(first):
        until(lambda: first.journal.now().get("ready"))
        send(world, range(read_before), what="both")
        until(lambda: fresh(first) == read_before)
    send(world, range(1, 121), what="both")
    second = world.agent()
    second.resume()
    with Running(second):
        until(lambda: fresh(second) == read_before + 120)
    assert counts(world, "answered") == counts(world, "matched") == read_before + 120
    world.producer.close()


@pytest.mark.kafka
def test_labels_that_come_after_their_answers_were_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kafka: str
) -> None:
    """120 labels in a topic of which no record was ever read; the agent had no time for a checkpoint."""
    world = World(tmp_path, monkeypatch, brokers=kafka, **LATEST)
    first = world.agent()
    with Running(first):
        until(lambda: first.journal.now().get("ready"))
        send(world, range(120), what="inferences")
        until(lambda: first.learner.router.label_counts["answered"] == 120)
    send(world, range(120), what="labels")
    second = world.agent()
    second.resume()
    with Running(second):
        until(lambda: fresh(second) == 120)
    world.producer.close()


def test_a_request_that_waits_for_its_response_is_read_again_by_the_next_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its offset is not passed while it waits, though records after it are done."""
    batches = {"TTA_ADAPT__BATCH_SIZE": "2", "TTA_ADAPT__MAX_WAIT_S": "600"}  # of full ones only
    batches["TTA_SELECT__HOLDOUT"] = "0.0001"  # all four teach, whatever the salt of this store
    world = World(tmp_path, monkeypatch, **{**LATEST, **batches, "TTA_STREAM__PARTITIONS": "1"})

    def half(side: str, id: str) -> None:
        name, array = ("input", X) if side == "request" else ("logits", Z)
        body, _ = oip.encode(
            oip.Body({name: array} if side == "request" else {}, {name: array} if side == "response" else {}),
            binary=False,
        )
        event = {"specversion": "1.0", "id": id, "source": "s"}
        event["type"] = f"org.kubeflow.serving.inference.{side}"
        heads = tuple((f"ce_{key}", value.encode()) for key, value in event.items())
        world.producer.send(world.settings.stream.topic, b"k", body, heads)
        world.producer.flush()

    first = world.agent()
    with Running(first):
        until(lambda: first.journal.now().get("ready"))
        half("request", "a")
        half("response", "a")  # from now on requests are waited for
        half("request", "b")
        half("request", "c")
        half("response", "c")
        half("request", "d")  # waits for the next batch
        half("response", "d")
        until(lambda: first.learner.adaptation.rounds == 1 and first.decoder.joined["joined"] == 3)
        assert first.decoder.oldest()
    half("response", "b")
    second = world.agent()
    second.resume()
    with Running(second):
        until(lambda: second.decoder.joined["joined"] == 3)
        until(lambda: second.learner.routed_total["duplicate"] == 1)
    assert second.learner.router.label_counts["answered"] == 4
