"""The round: policies with a memory, the source beside the copy, and memory that runs out."""

import numpy as np
import pytest
import torch

from tta_adapters.frozen import Frozen
from tta_adapters.sar import Sar
from tta_adapters.tent import Tent
from tta_agent.adaptation.sliding_window import Window
from tta_agent.adaptation.step import Adaptation
from tta_agent.core.types import Selection
from tta_agent.models.device import SMALLEST, Accelerator, Room
from tta_agent.telemetry.facade import Telemetry
from tta_agent.testing import batch, everyone, fingerprint, same, tiny_net
from tta_policies.schedule.periodic_reset import PeriodicReset
from tta_policies.select.entropy import Entropy
from tta_policies.select.redundancy import Redundancy

CPU = torch.device("cpu")


@pytest.fixture
def telemetry():
    it = Telemetry.from_environment("test", system="embedded", group="test")
    yield it
    it.shutdown()


class Tight(Tent):
    """Memory for `fits` samples with graph, for `scores` without."""

    def __init__(self, model, fits, scores=1000):
        super().__init__(model)
        self.fits, self.scores = fits, scores

    def forward(self, x):
        if len(x) > self.fits:
            raise torch.OutOfMemoryError("no room")
        return super().forward(x)

    def predict(self, x):
        if len(x) > self.scores:
            raise torch.OutOfMemoryError("no room")
        return super().predict(x)


class Asks:
    """A selector that looks at everything a view offers."""

    def select(self, view):
        self.view = view
        self.source, self.under_batch = view.source_logits(), view.source_batch_logits()
        return Selection(torch.arange(len(view.x)), torch.ones(len(view.x)))


class Odd:
    """Keeps every other sample and counts."""

    def __init__(self):
        self.seen = 0

    def select(self, view):
        self.seen += len(view.x)
        index = torch.arange(0, len(view.x), 2)
        return Selection(index, torch.full((len(index),), 0.5), {"odd": len(view.x) - len(index)})

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]

    def reset(self):
        self.seen = 0


class Always:
    """A schedule that wants a reset."""

    def after(self, moment):
        return True

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

    def reset(self):
        pass


def teacher(adapter, telemetry, selectors=(), schedules=()):
    return Adaptation(adapter, tiny_net("batch"), selectors, Accelerator(CPU), telemetry, "test", schedules)


def test_memory_that_runs_out_halves_the_batch_and_no_sample_is_lost(telemetry):
    it = teacher(Tight(tiny_net("batch"), fits=16), telemetry)
    done = it.round(batch(60).numpy())
    assert done.logits.shape == (60, 4)
    assert done.report.seen == done.report.used == 60
    assert it._room.samples == 15


def test_in_the_end_only_scoring_goes_on(telemetry):
    it = teacher(Tight(tiny_net("batch"), fits=SMALLEST - 1, scores=10), telemetry)
    before = fingerprint(it.adapter)
    done = it.round(batch(32).numpy())
    assert done.logits.shape == (32, 4)
    assert (done.report.used, done.report.diagnostics) == (0, {"paused": 1.0})
    assert same(before, fingerprint(it.adapter))


def test_what_does_not_even_score_is_raised():
    room = Room()
    room.learns = False
    with pytest.raises(torch.OutOfMemoryError):
        room.shrink(1)


def test_the_source_is_asked_only_for_what_it_did_not_serve(telemetry):
    asks, x = Asks(), batch(6)
    served = np.full((6, 4), np.nan, dtype=np.float32)
    served[:2] = 7.0
    teacher(Frozen(tiny_net("batch")), telemetry, [asks]).round(x.numpy(), served)
    assert torch.equal(asks.source[:2], torch.full((2, 4), 7.0))
    assert torch.allclose(asks.source[2:], tiny_net("batch")(x[2:]), atol=1e-5)


def test_the_source_under_batch_statistics_sees_the_whole_batch(telemetry):
    asks, x = Asks(), batch(6)
    teacher(Frozen(tiny_net("batch")), telemetry, [Odd(), asks]).round(x.numpy())
    assert torch.allclose(asks.under_batch, tiny_net("batch").train()(x)[::2], atol=1e-4)


def test_masks_are_anded_and_weights_multiply(telemetry):
    asks, it = Asks(), None
    it = teacher(Frozen(tiny_net("batch")), telemetry, [Odd(), Odd(), asks])
    x = batch(8)
    it.round(x.numpy())
    assert torch.equal(asks.view.x, x[::4])
    assert it.totals == {"kept": 2, "rejected_odd": 6}


def test_selectors_with_a_memory_survive_a_restart_and_a_reset_clears_them(telemetry):
    one, other = (teacher(Tent(tiny_net("batch")), telemetry, [Odd()]) for _ in range(2))
    one.round(batch(8).numpy())
    other.load_state_dict(one.state_dict())
    assert other._selectors[0].seen == 8
    other.reset()
    assert other._selectors[0].seen == 0


def test_a_schedule_resets_everything(telemetry):
    it = teacher(Tent(tiny_net("batch")), telemetry, [Odd()], [Always()])
    it.round(batch().numpy())
    assert same(fingerprint(it.adapter), fingerprint(Tent(tiny_net("batch"))))
    assert (it._selectors[0].seen, it.learnt, it.totals["resets"]) == (0, 0, 1)


def test_bfloat16_learns_too(telemetry):
    model = tiny_net("batch")
    it = Adaptation(Tent(model), model, [], Accelerator(CPU, "bfloat16"), telemetry)
    exact = teacher(Tent(model), telemetry)
    x = batch(32).numpy()
    a, b = it.round(x), exact.round(x)
    assert a.logits.dtype == np.float32
    assert np.allclose(a.logits, b.logits, atol=0.05)
    assert not np.array_equal(a.logits, b.logits)
    assert a.report.loss == pytest.approx(b.report.loss, abs=0.05)


def window(size=8, **options):
    return Window(Tent(tiny_net("batch")), size, **options)


def step(adapter, x, selection=None):
    logits = adapter.forward(x)
    adapter.step(x, logits, selection or everyone(x))
    return logits


def test_a_window_answers_with_those_before():
    adapter, x = window(), batch(8)
    answers = torch.cat([step(adapter, x[i : i + 1]).detach() for i in range(8)])
    whole = Tent(tiny_net("batch")).predict(x)
    assert torch.allclose(answers[-1], whole[-1], atol=1e-5)
    assert not torch.allclose(answers[0], whole[0], atol=1e-3)


def test_a_window_learns_once_per_size_arrivals():
    adapter, x = window(), batch(16)
    reports = []
    for i in range(16):
        one = x[i : i + 1]
        reports.append(adapter.step(one, adapter.forward(one), everyone(one)).used)
    assert [i for i, used in enumerate(reports) if used] == [7, 15]
    other = Tent(tiny_net("batch"))
    step(other, x[:8])
    step(other, x[8:])
    assert same(fingerprint(adapter.inner), fingerprint(other))


def test_who_was_not_selected_does_not_teach_in_a_window():
    adapter, x = window(), batch(8)
    nobody = Selection(torch.arange(0), torch.ones(0))
    for i in range(8):
        step(adapter, x[i : i + 1], nobody if i % 2 else None)
    other = Tent(tiny_net("batch"))
    step(other, x, Selection(torch.arange(0, 8, 2), torch.ones(4)))
    assert same(fingerprint(adapter.inner), fingerprint(other))


def test_full_batches_pass_a_window_untouched():
    adapter, other, x = window(), Tent(tiny_net("batch")), batch(16)
    assert torch.equal(step(adapter, x), step(other, x))
    assert same(fingerprint(adapter.inner), fingerprint(other))


def test_a_window_survives_a_restart_and_is_emptied_by_a_reset():
    one, other, x = window(), window(), batch(12)
    for i in range(5):
        step(one, x[i : i + 1])
    other.load_state_dict(one.state_dict())
    for i in range(5, 12):
        assert torch.equal(step(one, x[i : i + 1]), step(other, x[i : i + 1]))
    one.reset()
    assert same(fingerprint(one), fingerprint(window()))


def test_a_periodic_reset_leaves_nothing_of_weights_momentum_and_memory(telemetry):
    def eta():
        selectors = [Entropy(margin=1.0, weighted=True), Redundancy(d=0.99)]
        schedule = PeriodicReset(samples=48)
        return teacher(Tent(tiny_net("batch"), optimizer="sgd"), telemetry, selectors, [schedule])

    it, fresh = eta(), eta()
    for seed in range(2):
        it.round(batch(16, seed=seed).numpy())
    assert it.learnt
    assert not same(fingerprint(it.adapter), fingerprint(fresh.adapter))
    it.round(batch(16, seed=2).numpy())
    assert same(fingerprint(it.adapter), fingerprint(fresh.adapter))
    assert str(it.state_dict()["policies"]) == str(fresh.state_dict()["policies"])


def test_an_adapter_that_recovers_by_itself_resets_its_selectors_too(telemetry):
    it = teacher(Sar(tiny_net("batch"), margin=1.0, recovery=100.0), telemetry, [Odd()])
    it.round(batch(16).numpy())
    assert (it.learnt, it._selectors[0].seen) == (0, 0)
