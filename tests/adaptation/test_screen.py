"""Implausible inputs: scored, and in nothing else of a round; with every adapter."""

import json

import numpy as np
import pytest
import torch

from tta_adapters.frozen import Frozen
from tta_adapters.tent import Tent
from tta_agent.adaptation.sliding_window import Window
from tta_agent.adaptation.step import Adaptation
from tta_agent.core import plugins
from tta_agent.core.types import Selection, SourceInfo
from tta_agent.models.device import Accelerator
from tta_agent.telemetry.facade import Telemetry
from tta_agent.testing import WILD, batch, fingerprint, learn, same, tiny_net
from tta_policies.schedule.periodic_reset import PeriodicReset
from tta_policies.select.entropy import Entropy
from tta_policies.select.plausible import Plausible

CPU = torch.device("cpu")
KNOWN = SourceInfo(inputs=batch(64, seed=99))


def adaptation(adapter, selectors=None, schedules=(), source=None):
    selectors = [Plausible(KNOWN)] if selectors is None else selectors
    source = source or tiny_net("batch")
    return Adaptation(adapter, source, selectors, Accelerator(CPU), Telemetry.off(), "test", schedules)


def wild(values, n=16, seed=1):
    """A batch whose records 3, 4, ... hold these values in one pixel, and which they are [n]."""
    x, bad = batch(n, seed=seed), torch.zeros(n, dtype=torch.bool)
    for i, value in enumerate(values, start=3):
        x[i, 0, 2, 2] = value
        bad[i] = True
    return x, bad


@pytest.mark.parametrize("value", [*WILD, 1e4, -1e10])
@pytest.mark.parametrize("name", plugins.available("adapters"))
def test_a_wild_record_leaves_every_adapter_as_if_it_had_not_been(name, value):
    one, other = (adaptation(plugins.load("adapters", name)(tiny_net("batch"))) for _ in range(2))
    for seed in (1, 2):
        x, bad = wild([value], seed=seed)
        one.round(x.numpy())
        other.round(x[~bad].numpy())
    assert same(fingerprint(one.adapter), fingerprint(other.adapter))
    assert all(t.isfinite().all() for t in fingerprint(one.adapter) if t.is_floating_point())
    assert one.totals["rejected_implausible"] == 2
    assert one.totals["kept"] == other.totals["kept"]


def test_every_record_is_scored_in_its_place_the_wild_ones_by_the_deployed_model():
    x, bad = wild([1e4, -500.0, 300.0])
    done = adaptation(Tent(tiny_net("batch"))).round(x.numpy())
    assert done.logits.shape == (16, 4)
    with torch.no_grad():
        assert np.allclose(done.logits[bad], tiny_net("batch")(x[bad]), rtol=1e-4)
        assert np.allclose(done.logits[~bad], Tent(tiny_net("batch")).predict(x[~bad]), atol=1e-5)
    assert all(getattr(done, score).shape == (16,) for score in ("entropy", "confidence", "margin"))
    assert (done.report.seen, done.report.used, dict(done.dropped)) == (16, 13, {"implausible": 3})


def test_what_was_served_is_not_computed_again():
    x, _ = wild([1e4, 1e5])
    served = np.full((16, 4), np.nan, dtype=np.float32)
    served[3] = 7.0
    done = adaptation(Frozen(tiny_net("batch"))).round(x.numpy(), served)
    assert (done.logits[3] == 7).all()
    assert np.isfinite(done.logits[4]).all()


def test_a_batch_of_nothing_else_teaches_nobody_and_is_scored():
    it = adaptation(Tent(tiny_net("batch")), schedules=[PeriodicReset(samples=1)])
    before = fingerprint(it.adapter)
    x = batch(8) * 1e30
    x[0] = float("nan")
    done = it.round(x.numpy())
    assert (done.report.used, done.report.loss, it.learnt, it.rounds) == (0, None, 0, 1)
    assert it.totals == {"rejected_implausible": 8}
    assert done.logits.shape == (8, 4)
    assert same(before, fingerprint(it.adapter))
    json.dumps(done.numbers(), allow_nan=False)  # of the status


def test_other_selectors_see_only_what_is_left_and_counts_add_up():
    seen = []

    class Looks:
        def select(self, view):
            seen.append(view.x)
            return Selection(torch.arange(5), torch.ones(5), {"looks": len(view.x) - 5})

    it = adaptation(Tent(tiny_net("batch")), [Looks(), Plausible(KNOWN)])  # wherever it is named
    x, bad = wild([1e4])
    done = it.round(x.numpy())
    assert torch.equal(seen[0], x[~bad])
    assert it.totals == {"kept": 5, "rejected_looks": 10, "rejected_implausible": 1}
    assert done.numbers()["kept"] == pytest.approx(5 / 16)


def test_an_ordinary_batch_is_not_copied():
    seen = []

    class Same(Frozen):
        def forward(self, x):
            seen.append(x.data_ptr())
            return super().forward(x)

    x = batch(16).numpy()
    adaptation(Same(tiny_net("batch"))).round(x)
    assert seen == [x.ctypes.data]


def test_the_range_survives_a_restart_and_older_checkpoints_have_none():
    one, other, old = (adaptation(Tent(tiny_net("batch")), [Plausible()]) for _ in range(3))
    one.round(40 * batch(64).numpy())
    state = one.state_dict()
    other.load_state_dict(state)
    probe = 40 * batch(8, seed=7).numpy()
    assert other.plausible(probe).all()
    old.load_state_dict({name: part for name, part in state.items() if name != "screen"})
    assert not old.plausible(probe).any()
    assert old.rounds == 1
    other.reset()
    assert not other.plausible(probe).any()


def test_a_look_from_outside_remembers_nothing():
    it = adaptation(Tent(tiny_net("batch")), [Plausible()])
    x, bad = wild([1e4, 1e20], n=64)
    assert np.array_equal(it.plausible(x.numpy()), ~bad.numpy())
    assert len(it.state_dict()["screen"][0]["rows"]) == 0


def test_a_wild_record_does_not_stay_in_a_window():
    one, other = (adaptation(Window(Tent(tiny_net("batch")), 8)) for _ in range(2))
    x, bad = wild([1e20], n=24)
    for i in range(24):
        one.round(x[i : i + 1].numpy())
        if not bad[i]:
            other.round(x[i : i + 1].numpy())
    assert same(fingerprint(one.adapter), fingerprint(other.adapter))


@pytest.mark.parametrize("selectors", [[], [Entropy()]])
def test_a_copy_that_is_not_finite_starts_over_whoever_selects(selectors):
    """NaN is never sure of anything: a selector by entropy would leave such a copy alone for ever."""
    it = adaptation(Tent(tiny_net("batch")), selectors)
    learn(it.adapter)
    it.adapter.norms["1"].bias.data[0] = float("nan")
    done = it.round(batch().numpy())
    assert done.report.diagnostics["nonfinite"]
    assert it.totals["rounds_nonfinite"] == it.health.numbers["nonfinite"] == 1
    assert same(fingerprint(it.adapter), fingerprint(Tent(tiny_net("batch"))))


def test_without_a_screen_a_wild_record_costs_its_batch_and_nothing_else():
    it = adaptation(Tent(tiny_net("batch")), [])
    it.round(batch(seed=3).numpy())
    learnt = fingerprint(it.adapter)
    done = it.round(wild([1e20])[0].numpy())
    assert dict(done.report.diagnostics) == {"skipped": 1.0}
    assert it.totals["rounds_skipped"] == 1
    assert it.learnt == 1
    assert same(learnt, fingerprint(it.adapter))
