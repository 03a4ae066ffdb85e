"""The whole loop over recordings: adapts, certifies, swaps, and serves what it measured."""

import numpy as np
import pytest
import torch

from tests import worlds
from tta_adapters.tent import Tent
from tta_agent import environment, graph
from tta_agent.build import load_source
from tta_agent.replay import replay
from tta_agent.sessions import open_session, run
from tta_agent.testing import everyone

LATE = {"label_rate": 0.5, "label_delay_s": 5.0, "seed": 0}
KEYS = {
    "records", "adapted", "kept_by_reason", "source_accuracy", "online_accuracy", "served_accuracy", "swaps",
    "rollbacks", "labels_used", "seconds", "seconds_forward_only",
}  # fmt: skip


@pytest.fixture
def settings(monkeypatch):
    for name, value in worlds.FASHION.items():
        monkeypatch.setenv(name, value)
    return environment.load()


@pytest.fixture(scope="module")
def shifting(tmp_path_factory):
    return worlds.recording(tmp_path_factory.mktemp("shifting"), clean=1000, shifted=5000)


@pytest.fixture(scope="module")
def told(shifting):
    """The story of the shift, once."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in worlds.FASHION.items():
            patch.setenv(name, value)
        return replay(shifting, environment.load(), **LATE)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return worlds.recording(tmp_path_factory.mktemp("clean"), clean=3000, shifted=0)


def test_a_shift_is_adapted_to_proved_and_swapped(told):
    result = told
    assert result.keys() >= KEYS
    assert result["records"] == 6000
    assert len(result["swaps"]) >= 1
    assert result["served_accuracy"] > result["source_accuracy"] + 0.15
    assert result["kept_by_reason"]["held_out"] == pytest.approx(1200, rel=0.1)
    certified = [verdict for verdict in result["verdicts"] if verdict["outcome"] == "certified"]
    assert {f["gate"]: f["verdict"] for f in certified[0]["findings"]} == dict.fromkeys(
        ("integrity", "disagreement", "collapse", "certificate"), "pass"
    )


def test_the_same_seed_gives_the_same_story(settings, shifting, told):
    first, second = dict(told), replay(shifting, settings, **LATE)
    for result in (first, second):
        for name in ("seconds", "seconds_forward_only", "swaps", "verdicts"):
            result[name] = None if "seconds" in name else [event["version"] for event in result[name]]
    assert first == second


def test_without_labels_nothing_is_swapped(settings, shifting):
    result = replay(shifting, settings, label_rate=0.0, label_delay_s=5.0, seed=0)
    assert (result["swaps"], result["labels_used"]) == ([], 0)
    assert result["served_accuracy"] == result["source_accuracy"]


def test_observe_learns_nothing(settings, shifting):
    result = replay(shifting, environment.load(policy="observe-only", mode="observe"), **LATE)
    assert (result["adapted"], result["swaps"]) == (0, [])
    assert result["online_accuracy"] == pytest.approx(result["source_accuracy"], abs=0.03)


def test_clean_data_are_not_harmed(settings, clean):
    result = replay(clean, settings, **LATE)
    assert result["served_accuracy"] >= result["source_accuracy"] - 0.01


def test_the_served_graph_answering_single_images_keeps_tents_online_accuracy(settings):
    """The batch-statistics trap: what is served must not need a batch."""
    source = load_source(settings)
    _, shifted, labels = worlds.images(6000)
    adapter = Tent(source.module)
    online = []
    for start in range(0, 4000, 64):
        x = torch.from_numpy(shifted[start : start + 64])
        logits = adapter.forward(x)
        online += (logits.argmax(1).numpy() == labels[start : start + 64]).tolist()
        adapter.step(x, logits, everyone(x))
    session = open_session(graph.MasterGraph(source.module, source.shape).compose(adapter.servable()))
    fresh, truth = shifted[4000:], labels[4000:]
    alone = np.concatenate([run(session, fresh[i : i + 1]) for i in range(len(fresh))])
    together = np.concatenate([run(session, fresh[i : i + 250]) for i in range(0, len(fresh), 250)])
    assert np.allclose(alone, together, atol=1e-3)
    assert (alone.argmax(1) == truth).mean() >= np.mean(online[-2000:]) - 0.02
    # the trap is real: the batch's own statistics leave a single image without any
    with torch.no_grad():
        trapped = torch.cat([adapter.predict(torch.from_numpy(fresh[i : i + 1])) for i in range(300)])
    assert (trapped.argmax(1).numpy() == truth[:300]).mean() < 0.6
