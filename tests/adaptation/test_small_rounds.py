"""Rounds of one record: where batch statistics need more, those before it help; by itself, and said at the start."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import worlds
from tta_adapters.tent import Tent
from tta_agent.adaptation.sliding_window import Window
from tta_agent.assembly import build
from tta_agent.settings import env
from tta_agent.telemetry.facade import Telemetry
from tta_agent.testing import fingerprint, learn, same, tiny_net

RECORDS = 200
WEIGHTS = Path(__file__).parents[2] / "benchmarks" / "weights"


@pytest.fixture(autouse=True)
def fashion(monkeypatch):
    for key, value in worlds.FASHION.items():
        monkeypatch.setenv(key, value)


def made(**adapt):
    settings = env.load(adapt=adapt)
    source = build.load_source(settings)
    return build.make_adaptation(settings, source, Telemetry.off()), source


def rightly(logits, labels):
    return float((np.concatenate(logits).argmax(1) == labels).mean())


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("method", ["norm", "tent", "roid", "eata", "sar", "deyo", "adamixbn"])
def test_a_stream_of_single_records_does_not_fall_below_the_source(method, shifted):
    """33 % and less without help; the source has 91 % clean, 28 % shifted."""
    clean, noisy, labels = worlds.images(6000)
    x = (noisy if shifted else clean)[:RECORDS]
    adaptation, source = made(method=method)
    with torch.no_grad():
        frozen = rightly([source.module(torch.from_numpy(x)).numpy()], labels[:RECORDS])
    online = rightly([adaptation.round(x[i : i + 1]).logits for i in range(RECORDS)], labels[:RECORDS])
    assert online > frozen + (0.15 if shifted else -0.04)


def test_what_is_served_after_single_records_is_as_good():
    _, noisy, labels = worlds.images(6000)
    adaptation, source = made(method="tent")
    for i in range(RECORDS):
        adaptation.round(noisy[i : i + 1])
    assert adaptation.learnt == RECORDS // 16
    x = torch.from_numpy(noisy[3000:3500])
    with torch.no_grad():
        nets = (adaptation.adapter.servable(), source.module)
        served, frozen = (rightly([net(x).numpy()], labels[3000:3500]) for net in nets)
    assert served > frozen + 0.3


@pytest.mark.parametrize(
    ("method", "window", "size"),
    [
        ("tent", 0, 16),
        ("tent", 1, None),
        ("tent", 48, 48),
        ("tesla", 0, 16),
        ("frozen", 0, None),
        ("frozen", 8, 8),
    ],
)
def test_the_window_is_there_by_itself_where_the_batch_has_statistics(method, window, size):
    adapter = made(method=method, window=window)[0].adapter
    assert (adapter.size if isinstance(adapter, Window) else None) == size


def test_without_batch_statistics_each_record_is_its_own_round(monkeypatch):
    monkeypatch.setenv("TTA_MODEL__FACTORY", "tta_agent.bench.nets:fashion_ln")
    monkeypatch.setenv("TTA_MODEL__WEIGHTS", str(WEIGHTS / "fashion_ln.safetensors"))
    adaptation, _ = made(method="tent")
    assert isinstance(adaptation.adapter, Tent)
    assert adaptation.adapter.smallest_batch == 1


def test_full_rounds_are_what_they_were():
    _, noisy, _ = worlds.images(6000)
    behind, alone = made(method="tent")[0], made(method="tent", window=1)[0]
    for start in (0, 64, 128):
        a, b = (one.round(noisy[start : start + 64]) for one in (behind, alone))
        assert np.array_equal(a.logits, b.logits)
    assert same(fingerprint(behind.adapter.inner), fingerprint(alone.adapter))


@pytest.mark.parametrize(
    ("adapt", "lines"), [({}, 1), ({"window": 1}, 0), ({"window": 32}, 0), ({"method": "frozen"}, 0)]
)
def test_it_is_said_in_one_line_at_the_start(adapt, lines, caplog):
    with caplog.at_level(logging.INFO):
        made(**adapt)
    told = [line for line in caplog.messages if "TTA_ADAPT__WINDOW" in line]
    assert len(told) == lines
    assert all("fewer than 16 records" in line and "TTA_ADAPT__MAX_WAIT_S" in line for line in told)


def test_the_state_of_an_adapter_alone_is_taken_up_with_an_empty_window():
    alone, behind = Tent(tiny_net("batch")), Window(Tent(tiny_net("batch")), 16)
    learn(alone)
    behind.load_state_dict(alone.state_dict())
    assert same(fingerprint(behind.inner), fingerprint(alone))
    alone.load_state_dict(behind.state_dict())  # and the other way round, where the window is switched off
    assert same(fingerprint(behind.inner), fingerprint(alone))
