"""Weights that are not those which the server serves end the agent before it learns."""

import os
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import worlds
from tests.pipeline.test_agent import Running, until
from tta_agent.assembly import build
from tta_agent.settings import env
from tta_agent.stream import factory
from tta_agent.stream.codecs.cloudevents import CloudEvents


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A stream of 96 records that the demo's net answers; nobody says by which version."""
    given = {
        **worlds.FASHION,
        "TTA_MODE": "shadow",
        "TTA_STREAM__START": "earliest",
        "TTA_ADAPT__BATCH_SIZE": "16",
    }
    for name, value in {**given, "TTA_STORE__PATH": str(tmp_path / "store")}.items():
        monkeypatch.setenv(name, value)
    send(range(96))
    return env.load()


def send(rows):
    """Records that the demo's net answers."""
    with torch.no_grad():
        x = worlds.images(6000)[0][rows.start : rows.stop]
        answers = worlds.fashion_answering("logits")(torch.from_numpy(x)).numpy()
    producer = factory.open_producer(env.load(), [])
    for i, sample, answer in zip(rows, x, answers, strict=True):
        event = CloudEvents().encode_inference(
            f"r{i}", sample[None], answer[None], None, source="s", model="m", time_s=time.time()
        )
        producer.send("inference", *event)
    producer.close()


@pytest.fixture
def others(tmp_path):
    """Weights of the same net, trained otherwise."""
    tensors = load_file(worlds.FASHION["TTA_MODEL__WEIGHTS"])
    random = torch.Generator().manual_seed(0)
    moved = {
        name: t * (0.5 + torch.rand(t.shape, generator=random)).to(t.dtype) for name, t in tensors.items()
    }
    save_file(moved, tmp_path / "others.safetensors")
    return str(tmp_path / "others.safetensors")


@pytest.mark.slow
def test_other_weights_end_the_agent_with_what_to_check(settings, others):
    done = subprocess.run(
        [sys.executable, "-m", "tta_agent", "run"], env={**os.environ, "TTA_MODEL__WEIGHTS": others},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    told = [line for line in done.stderr.splitlines() if " INFO " not in line and " WARNING " not in line]
    assert told[0].startswith("tta-agent: what is served is not what the model answers, over 32 records"), (
        told
    )
    assert "as_is 0.78 (44%)" in told[0]
    assert "check the weights" in told[1] and len(told) == 3
    assert not (settings.store.path / "checkpoint.pt").exists()


def rounds(agent):
    with Running(agent):
        until(lambda: agent.learner.adaptation.rounds >= 3)
    return agent.learner.adaptation.learnt


def test_the_weights_that_serve_pass(settings, caplog):
    assert rounds(build.agent(settings, build.load_source(settings)))
    told = "served answers are the model's, with inputs as as_is: over 32 records the median difference is"
    assert told in caplog.text


def test_the_check_can_be_turned_off(settings, others, monkeypatch):
    monkeypatch.setenv("TTA_MODEL__WEIGHTS", others)
    monkeypatch.setenv("TTA_MODEL__CHECK_SERVED", "false")
    settings = env.load()
    assert rounds(build.agent(settings, build.load_source(settings)))


def test_nothing_is_learnt_before_enough_answers_have_come(settings, tmp_path, monkeypatch):
    for name, value in {
        "TTA_STORE__PATH": str(tmp_path / "few"), "TTA_ADAPT__BATCH_SIZE": "2", "TTA_ADAPT__MAX_WAIT_S": "0.1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    send(range(7))
    agent = build.agent(env.load(), build.load_source(env.load()))
    with Running(agent):
        until(agent.decoder.oldest)  # they wait there
        time.sleep(0.5)
        assert agent.learner.adaptation.rounds == 0
        send(range(7, 9))
        until(lambda: agent.learner.adaptation.rounds > 0)
