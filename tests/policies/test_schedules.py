"""Schedules: resets at the right time, and pulls towards the source by the formula."""

import math

import numpy as np
import pytest
import torch

from tta_agent.core.types import Moment, StepReport
from tta_policies.schedule.concentration_reset import ConcentrationReset, concentration
from tta_policies.schedule.periodic_reset import PeriodicReset
from tta_policies.schedule.stochastic_restore import StochasticRestore
from tta_policies.schedule.weight_ensembling import WeightEnsembling


def moment(logits=None, *, used=4, seen=4, moved=None):
    logits = torch.zeros(seen, 3) if logits is None else logits
    return Moment(logits, StepReport(seen, used, 0.1 if used else None), moved or {})


def weights():
    return {"a": (torch.ones(1000), torch.zeros(1000))}


def test_the_period_is_counted_in_samples():
    schedule = PeriodicReset(samples=10)
    assert [schedule.after(moment(seen=4)) for _ in range(3)] == [False, False, True]
    schedule.reset()
    assert not schedule.after(moment(seen=4))


def test_rounds_without_a_step_count_for_the_period():
    assert PeriodicReset(samples=4).after(moment(used=0))


def test_concentration_is_the_negative_entropy_of_the_mean_answer():
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    p = np.exp(logits.numpy())
    mean = (p / p.sum(1, keepdims=True)).mean(0)
    assert math.isclose(concentration(logits), (mean * np.log(mean)).sum(), rel_tol=1e-5)


def test_a_collapse_triggers_and_a_steady_stream_does_not():
    steady = [torch.eye(3).repeat(4, 1) * 5] * 60
    collapsed = [torch.tensor([[5.0, 0, 0]]).repeat(12, 1)] * 10
    schedule = ConcentrationReset()
    assert not any(schedule.after(moment(x)) for x in steady)
    assert any(schedule.after(moment(x)) for x in collapsed)


def test_a_stream_of_one_class_from_the_start_is_no_collapse():
    schedule = ConcentrationReset()
    assert not any(schedule.after(moment(torch.tensor([[5.0, 0, 0]]).repeat(12, 1))) for _ in range(60))


def test_ensembling_follows_the_formula_and_zero_is_the_source():
    for keep in (0.99, 0.0):
        moved = weights()
        WeightEnsembling(keep).after(moment(moved=moved))
        assert torch.allclose(moved["a"][0], torch.full((1000,), keep))


def test_restore_hits_the_share_and_one_restores_all():
    moved = weights()
    StochasticRestore(0.2).after(moment(moved=moved))
    assert 0.1 < float((moved["a"][0] == 0).float().mean()) < 0.3
    StochasticRestore(1.0).after(moment(moved=moved))
    assert torch.equal(*moved["a"])


@pytest.mark.parametrize("schedule", [WeightEnsembling(0.5), StochasticRestore(1.0)])
def test_without_a_step_nothing_is_touched(schedule):
    moved = weights()
    assert not schedule.after(moment(used=0, moved=moved))
    assert torch.equal(moved["a"][0], torch.ones(1000))


@pytest.mark.parametrize("make", [PeriodicReset, ConcentrationReset, WeightEnsembling, StochasticRestore])
def test_a_round_trip_goes_on_as_before(make):
    one, other = make(), make()
    for i in range(5):
        one.after(moment(torch.full((4, 3), float(i)), moved=weights()))
    other.load_state_dict(one.state_dict())
    a, b = weights(), weights()
    assert one.after(moment(moved=a)) == other.after(moment(moved=b))
    assert torch.equal(a["a"][0], b["a"][0])
    one.reset()
    assert str(one.state_dict()) == str(make().state_dict())


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (PeriodicReset, {"samples": 0}),
        (ConcentrationReset, {"margin": 0}),
        (ConcentrationReset, {"slow": 0.5}),
        (WeightEnsembling, {"keep": 1.1}),
        (StochasticRestore, {"share": -0.1}),
    ],
)
def test_bad_values_are_named(make, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make(**wrong)
