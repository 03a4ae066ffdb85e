"""TENT against the formula, in NumPy, and against the paper's words."""

import math

import numpy as np
import torch
from torch import nn

from tests.parts.reference_stats import Reference
from tta_adapters.norm import Norm
from tta_adapters.tent import Tent
from tta_agent.core.types import Selection
from tta_agent.testing import batch, everyone, learn, tiny_net


def numpy_entropy(logits):
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return -(p * np.log(p)).sum(1)


def test_the_first_answer_is_the_source_under_batch_statistics():
    model, x = tiny_net("batch"), batch()
    trained = tiny_net("batch").train()
    assert torch.allclose(Tent(model).forward(x), trained(x), atol=1e-5)


def test_a_repeat_of_the_batch_is_answered_otherwise():
    adapter, x = Tent(tiny_net("batch")), batch()
    first = adapter.forward(x)
    adapter.step(x, first, everyone(x))
    assert not torch.allclose(adapter.forward(x), first)


def test_the_loss_is_the_weighted_mean_entropy_of_the_selected():
    adapter, x = Tent(tiny_net("batch")), batch()
    logits = adapter.forward(x)
    selection = Selection(torch.tensor([1, 4, 5]), torch.tensor([1.0, 0.5, 2.0]))
    expected = (numpy_entropy(logits.detach().double().numpy())[[1, 4, 5]] * [1.0, 0.5, 2.0]).sum() / 3
    assert abs(adapter.step(x, logits, selection).loss - expected) < 1e-6


def test_entropy_falls_on_the_batch_that_it_learns_from():
    adapter, x = Tent(tiny_net("layer"), lr=1e-2), batch()
    losses = [adapter.step(x, adapter.forward(x), everyone(x)).loss for _ in range(20)]
    assert losses[-1] < losses[0]


def test_only_normalisation_moves():
    model = tiny_net("batch")
    adapter = Tent(model)
    learn(adapter)
    before, after = model.state_dict(), adapter.servable().state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {
        f"{i}.{leaf}" for i in (1, 4) for leaf in ("weight", "bias", "running_mean", "running_var")
    }


def test_served_statistics_follow_the_formula():
    x = [batch(seed=i) for i in range(4)]
    adapter = Norm(tiny_net("batch"), momentum=0.3, change=math.inf)
    conv = adapter.source[0]
    start = (b.double().numpy() for b in (adapter.source[1].running_mean, adapter.source[1].running_var))
    expected = Reference(*start, momentum=0.3, change=math.inf)
    for one in x:
        adapter.step(one, adapter.forward(one), everyone(one))
        expected.absorb(conv(one).detach().numpy())
    served, (mean, var) = adapter.servable()[1], expected.served
    assert np.allclose(served.running_mean, mean, atol=1e-5)
    assert np.allclose(served.running_var, var, atol=1e-5)


def test_a_map_of_one_value_has_no_statistics_to_learn():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4)).eval()
    adapter = Norm(model)
    adapter.step(batch(1), adapter.forward(batch(1)), everyone(batch(1)))
    assert torch.equal(adapter.servable()[2].running_mean, model[2].running_mean)
