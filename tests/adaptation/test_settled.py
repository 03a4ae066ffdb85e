"""Where classes come in runs, the first candidate after a change waits until its averages are of all of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests import worlds
from tta_agent.adaptation.class_runs import ClassRuns, apart
from tta_agent.assembly import build
from tta_agent.settings import env
from tta_agent.telemetry.facade import Telemetry

BATCH = 64


@pytest.fixture(autouse=True)
def fashion(monkeypatch):
    for key, value in worlds.FASHION.items():
        monkeypatch.setenv(key, value)


def rounds_until_settled(x, after=1, **adapt):
    settings = env.load(adapt=adapt)
    adaptation = build.make_adaptation(settings, build.load_source(settings), Telemetry.off())
    for i in range(len(x) // BATCH):
        adaptation.round(x[i * BATCH : (i + 1) * BATCH])
        if i + 1 >= after and adaptation.settled():
            return i + 1
    return None


def in_runs(x, labels, length=25):
    """Records of one class after the other, 25 at a time."""
    runs = np.array_split(np.argsort(labels, kind="stable"), len(labels) // length)
    order = np.random.default_rng(0).permutation(len(runs))
    return x[np.concatenate([runs[i] for i in order])]


@pytest.mark.parametrize("method", ["norm", "tent"])
@pytest.mark.parametrize("shifted", [False, True])
def test_independent_records_are_settled_at_once(method, shifted):
    assert rounds_until_settled(worlds.images(1000)[shifted][: 6 * BATCH], method=method) == 1


@pytest.mark.parametrize("method", ["norm", "tent"])
def test_classes_in_runs_take_longer(method):
    _, noisy, labels = worlds.images(1000)
    rounds = rounds_until_settled(in_runs(noisy, labels), method=method, after=2)
    assert rounds is not None and 4 <= rounds <= 12


def test_a_method_that_averages_nothing_is_settled_at_once(monkeypatch):
    monkeypatch.setenv("TTA_MODEL__FACTORY", "tta_agent.bench.nets:fashion_ln")
    weights = Path(__file__).parents[2] / "benchmarks" / "weights" / "fashion_ln.safetensors"
    monkeypatch.setenv("TTA_MODEL__WEIGHTS", str(weights))
    _, noisy, labels = worlds.images(1000)
    assert rounds_until_settled(in_runs(noisy, labels), method="tent", after=2) == 2


def test_a_change_of_regime_is_no_run_of_classes():
    def found(seed):
        before, after = ([0.1] * 10, [0.02] * 5 + [0.18] * 5)
        random, runs = np.random.default_rng(seed), ClassRuns()
        for i in range(9):
            runs.observe(random.multinomial(64, before if i < 5 else after))
        return runs.found()

    assert np.mean([found(seed) for seed in range(200)]) < 0.1


def test_it_goes_on_where_it_stood():
    runs, again = ClassRuns(), ClassRuns()
    for i in range(6):
        runs.observe(np.eye(10, dtype=int)[i] * 64)
    assert runs.found() and not again.found()
    again.load_state_dict(json.loads(json.dumps(runs.state_dict())))
    assert again.found() and again.state_dict() == runs.state_dict()


@pytest.mark.parametrize("sizes", [(64, 64), (5, 64), (64, 5)])
def test_independent_batches_lie_about_as_far_apart_as_chance_has_it(sizes):
    random = np.random.default_rng(1)
    found = [apart(*(random.multinomial(n, [0.1] * 10) for n in sizes)) for _ in range(500)]
    assert abs(np.mean(found)) < 0.3 and 0.5 < np.std(found) < 1.3
