"""One measurement: what is counted, when a snapshot answers, and what the numbers mean."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from tests.bench.test_streams import tiny_file
from tta_agent import testing
from tta_agent.bench import cost, lagged, peers, protocol, timing
from tta_agent.bench.cost import Clock, Counter, head
from tta_agent.bench.lagged import NOBODY, Lagged, change_cost
from tta_agent.bench.streams import Stream, StreamSpec
from tta_agent.core.types import Selection, StepReport
from tta_agent.models.loader import DeployedModel
from tta_agent.settings import env

CPU = torch.device("cpu")


def source(kind="batch"):
    return DeployedModel(testing.tiny_net(kind), (1, 8, 8), testing.CLASSES, CPU)


def settings(method, **groups):
    return env.load(adapt={"method": method, "window": 1}, select={"selectors": []}, mode="shadow", **groups)


def stream(folder, name="reset", corruptions=("contrast",), images=40, batch=8, **rest):
    spec = StreamSpec(tiny_file(folder), name, corruptions, images=images, batch=batch, **rest)
    return Stream(spec, folder / "cache")


def measure(folder, method="norm", lags=(1, 2), **rest):
    ticks = []
    found = protocol.measure(settings(method), source(), stream(folder, **rest), lags, folder, ticks.append)
    assert sum(ticks) == found["records"]
    return found


class Doubtful:
    """Answers class 0 before the step and 1 after it; serves the number of its rounds."""

    answers_after_step = True

    def __init__(self, model):
        self.model, self.rounds = model, 0

    def forward(self, x):
        return one_hot(len(x), 0)

    def predict(self, x):
        return one_hot(len(x), 1)

    def step(self, x, logits, selection: Selection):
        self.rounds += 1
        return StepReport(len(x), len(selection.index), None)

    def servable(self):
        return Always(self.rounds % testing.CLASSES)

    def moved(self):
        return {}


class Always(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return one_hot(len(x), self.answer)


def one_hot(n, which):
    logits = torch.zeros(n, testing.CLASSES)
    logits[:, which] = 1
    return logits


@pytest.mark.parametrize(
    ("method", "forwards", "backwards"), [("frozen", 1, 0), ("norm", 1, 0), ("tent", 1, 1)]
)
def test_hooks_count_the_passes_of_a_method_and_not_the_benchmarks(tmp_path, method, forwards, backwards):
    found = measure(tmp_path, method)
    assert (found["forwards"], found["backwards"]) == (forwards, backwards)


def test_every_copy_counts_and_only_while_it_is_asked_to():
    model = testing.tiny_net("batch")
    counter = Counter(model, testing.CLASSES)
    student, teacher = copy.deepcopy(model).requires_grad_(True), copy.deepcopy(copy.deepcopy(model))
    x = testing.batch(6)
    with counter.counting() as passes:
        with torch.no_grad():
            teacher(x)
        student(x)[:2].sum().backward()
        student(x[:3])
    student(x).sum().backward()
    assert (passes.forwards, passes.backwards) == (15, 6)


def test_the_head_is_the_last_layer_with_an_output_for_each_class():
    net = testing.tiny_net("layer")
    assert head(net, testing.CLASSES) is net[-1]
    assert head(net, 7) is net


def test_a_snapshot_answers_the_next_batches_and_nothing_before_it():
    line = Lagged([1, 2, 5], lambda module, x: lagged.classes(module, x, CPU))
    x = np.zeros((3, 1, 8, 8), np.float32)
    for rounds in range(1, 5):
        line.serve(x)
        line.learnt(lambda rounds=rounds: Always(rounds % 4))
    answers = {lag: a[::3].tolist() for lag, a in line.answers().items()}
    assert answers == {1: [NOBODY, 1, 2, 3], 2: [NOBODY, NOBODY, 2, 2], 5: [NOBODY] * 4}


def test_records_before_the_first_snapshot_are_not_counted_as_served(tmp_path):
    found = measure(tmp_path, lags=(1, 2, 9), images=40, batch=8)
    whole = stream(tmp_path)
    batches = list(whole.batches())
    late = np.concatenate([b.labels for b in batches[2:]])
    contender = protocol.ContenderRun(settings("norm"), source())
    online = np.concatenate([contender.answer(b.x).argmax(1) for b in batches])
    assert found["online"] == pytest.approx(np.mean(online == np.concatenate([b.labels for b in batches])))
    assert found["lags"]["2"]["online_same"] == pytest.approx(np.mean(online[16:] == late))
    assert found["lags"]["2"]["online_second_half"] == pytest.approx(np.mean(online[20:] == late[4:]))
    assert found["lags"]["9"]["served"] is found["lags"]["9"]["online_same"] is None


def test_what_is_served_is_the_snapshot_answering_each_image_alone(tmp_path):
    found = measure(tmp_path, "tent", lags=(2,))
    contender, snapshot, right = protocol.ContenderRun(settings("tent"), source()), None, []
    torch.manual_seed(0)
    for i, batch in enumerate(stream(tmp_path).batches()):
        if snapshot is not None:
            with torch.no_grad():
                alone = [int(snapshot(torch.from_numpy(x[None])).argmax()) for x in batch.x]
            right += (alone == batch.labels).tolist()
        contender.answer(batch.x)
        if (i + 1) % 2 == 0:
            snapshot = contender.servable()
    assert found["lags"]["2"]["served"] == pytest.approx(np.mean(right))


def test_a_method_that_answers_after_its_step_is_asked_after_it(tmp_path):
    contender = protocol.ContenderRun(settings(f"{__name__}:Doubtful"), source())
    x = testing.batch(5).numpy()
    assert set(contender.answer(x).argmax(1)) == {1}
    Doubtful.answers_after_step = False
    try:
        contender = protocol.ContenderRun(settings(f"{__name__}:Doubtful"), source())
        assert set(contender.answer(x).argmax(1)) == {0}
    finally:
        Doubtful.answers_after_step = True


def test_the_source_is_the_frozen_model_on_the_same_records(tmp_path):
    found = measure(tmp_path, "frozen", lags=(1,), name="continual", corruptions=("contrast", "brightness"))
    assert found["source"] == found["online"] == np.mean([d["source"] for d in found["domains"].values()])
    assert found["lags"]["1"]["served"] == found["lags"]["1"]["source_same"]
    assert found["lags"]["1"]["change_cost"] == 0


def test_unknown_classes_are_not_counted(tmp_path):
    found = measure(tmp_path, "frozen", lags=(1,), name="unknown")
    whole = stream(tmp_path, name="unknown")
    answers = np.concatenate([lagged.classes(source().module, b.x, CPU) for b in whole.batches()])
    labels = np.concatenate([b.labels for b in whole.batches()])
    assert found["records"] == 40 and np.sum(labels >= 0) == 28
    assert found["online"] == pytest.approx(np.mean(answers[labels >= 0] == labels[labels >= 0]))


def test_single_images_go_through_a_window_that_counts_as_a_round(tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "WINDOW", 2)
    found = measure(tmp_path, lags=(1,), name="single", images=48, batch=1, corruptions=("contrast", "fog"))
    assert found["records"] == 8
    assert found["lags"]["1"]["served"] is not None


def test_the_cost_of_a_change_is_where_the_gap_closes_for_good_measure():
    gap = np.zeros(2000)
    gap[500:650] = gap[1000:1150] = gap[1500:1650] = 0.5
    assert (
        change_cost(gap, [500, 1000, 1500]) == 146
    )  # 200 records of which at most 4 are worth half a record
    assert change_cost(gap, []) is None
    assert change_cost(np.zeros(2000), [1000]) == 0
    assert change_cost(np.ones(2000), [1000]) == 1000


def test_a_change_before_the_first_snapshot_is_not_one_of_served(tmp_path):
    rest = {"name": "long", "images": 40, "batch": 8, "corruptions": ("contrast", "brightness")}
    found = measure(tmp_path, "frozen", lags=(3,), **rest)
    assert found["lags"]["3"]["change_cost"] == 0
    assert measure(tmp_path, "frozen", lags=(99,), **rest)["lags"]["99"]["change_cost"] is None


def test_a_method_and_its_peer_are_timed_on_the_same_batches(monkeypatch, tmp_path):
    seen = {"peer": [], "forward": []}
    monkeypatch.setattr(peers, "make", lambda name, source: lambda x: seen["peer"].append(x.sum()))
    monkeypatch.setattr(timing, "classes", lambda module, x, device: seen["forward"].append(x.sum()))
    found = timing.measure(settings("tent"), source(), stream(tmp_path), "tent", 0.0)
    assert len(seen["peer"]) == timing.WARM + timing.LEAST
    assert sorted(seen["peer"]) == sorted(seen["forward"])
    assert found["step_over_forward"] == found["step_s"] / found["forward_s"]
    assert set(found["peer"]) == {"step_over_forward", "ours_over_theirs"}


def test_the_clock_takes_turns_and_leaves_out_the_first_ones(monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr(cost.time, "perf_counter", lambda: float(next(now)))
    turns = []
    clock = Clock({"a": lambda x: turns.append("a"), "b": lambda x: turns.append("b")}, CPU)
    clock.run([np.zeros(1)] * 9, warm=2, least=2, limit_s=0)
    assert "".join(turns) == "abbaabba"
    assert clock.seconds == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


@pytest.mark.skipif(peers.missing() is not None, reason=str(peers.missing()))
@pytest.mark.parametrize("name", ["tent", "eata", "deyo"])
def test_a_peer_learns_on_the_statistics_of_the_batch(name, tmp_path):
    whole = stream(tmp_path, images=48, batch=16)
    found = peers.measure(name, source(), whole, lambda n: None)
    assert found["records"] == 48
    assert found["forwards"] >= 2 and found["backwards"] <= 1
    mine = source()
    peer = peers.make(name, dataclasses.replace(mine, module=copy.deepcopy(mine.module)))
    x = testing.batch(16).numpy()
    with torch.no_grad():
        frozen = mine.module(torch.from_numpy(x)).numpy()
    assert not np.allclose(peer(x), frozen, atol=1e-3)
