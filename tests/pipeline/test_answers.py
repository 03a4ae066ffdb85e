"""The whole agent on a model that answers probabilities, and on one with one logit for two classes."""

import time

import numpy as np
import pytest

from tests import worlds
from tests.pipeline.test_agent import Running, World, loop_to_a_certified_swap, until
from tta_agent.assembly import build
from tta_agent.models import onnx_export
from tta_agent.models.ort_sessions import open_session, raw_answer, run
from tta_agent.replay.engine import replay
from tta_agent.settings import env


def test_a_model_that_answers_probabilities_is_adapted_and_serves_probabilities(tmp_path, monkeypatch):
    monkeypatch.delenv("TTA_MODEL__WEIGHTS", raising=False)
    world = World(
        tmp_path, monkeypatch, TTA_MODEL__FACTORY="tests.worlds:fashion_probabilities", TTA_MODEL__WEIGHTS=""
    )
    assert world.source.output.kind == "probabilities"
    loop_to_a_certified_swap(world)
    number, session = world.pair.current()
    assert number > 0
    answers = raw_answer(session, worlds.images(6000)[1][:50])
    assert np.allclose(answers.sum(1), 1, atol=1e-4) and answers.min() >= 0


def test_a_model_with_one_logit_is_adapted_as_two_classes(tmp_path, monkeypatch):
    clean, shifted, labels = worlds.images(6000)
    binary = (labels < 5).astype(int)
    monkeypatch.setattr(worlds, "images", lambda n: (clean, shifted, binary))
    world = World(
        tmp_path, monkeypatch, TTA_MODEL__FACTORY="tests.worlds:fashion_binary", TTA_MODEL__WEIGHTS=""
    )
    assert (world.source.output.kind, world.source.classes) == ("logit", 2)
    agent = world.agent()
    with Running(agent):
        until(lambda: world.pair.current()[0] > 0, lambda: (world.send(64), time.sleep(0.2)))
    swap = world.events(agent, "swap")[0]
    assert world.registry.get(swap["version"]).proof == "certified"
    assert not agent.decoder.refused
    right = {}
    for number in (0, swap["version"]):
        session = open_session(world.registry.get(number).path, output=world.source.output)
        assert raw_answer(session, shifted[:5]).shape == (5, 1)
        right[number] = (run(session, shifted[:2000]).argmax(1) == binary[:2000]).mean()
    assert right[swap["version"]] > right[0] + 0.05, right


@pytest.mark.parametrize(("factory", "classes"), [("fashion_probabilities", 10), ("fashion_binary", 2)])
def test_a_replay_measures_and_adapts_them(tmp_path, monkeypatch, factory, classes):
    clean, shifted, labels = worlds.images(1000)
    labels = labels if classes == 10 else (labels < 5).astype(int)
    monkeypatch.setattr(worlds, "images", lambda n: (clean[:n], shifted[:n], labels[:n]))
    recording = worlds.recording(tmp_path, clean=200, shifted=800)
    given = {**worlds.FASHION, "TTA_MODEL__FACTORY": f"tests.worlds:{factory}", "TTA_MODEL__WEIGHTS": ""}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    result = replay(recording, env.load(), label_rate=0.5, label_delay_s=5.0, seed=0)
    inputs = np.concatenate([clean[:200], shifted[200:1000]]).astype(np.float32)
    source = build.load_source(env.load())
    right = (onnx_export.answers(source.module, inputs).argmax(1) == labels).mean()
    assert result["source_accuracy"] == pytest.approx(right, abs=0.01)
    assert result["online_accuracy"] > result["source_accuracy"]
    assert result["adapted"] > 0 and result["labels_arrived"] > 150
