"""ROID against its formulas, in NumPy, and its promises."""

import copy

import numpy as np
import pytest
import torch

from tta_adapters import roid
from tta_adapters.roid import Roid, corrected, likelihood_ratio, weights
from tta_agent.core.types import Selection
from tta_agent.testing import batch, everyone, learn, tiny_net


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def entropy(p):
    return -(p * np.log(p)).sum(1)


def logits(n=12, c=5, seed=0, spread=3.0):
    return np.random.default_rng(seed).normal(size=(n, c)) * spread


def numpy_weights(z, m, tau):
    p = softmax(z)
    div = 1 - p @ m / (np.linalg.norm(p, axis=1) * np.linalg.norm(m))
    cert = -entropy(p)
    div, cert = ((v - v.min()) / (v.max() - v.min()) for v in (div, cert))
    return np.exp(div * cert / tau), div >= div.mean()


def numpy_slr(z):
    p = np.minimum(softmax(z), 0.99)
    return -(p * np.log(p / (1 - p) + 1e-5)).sum(1)


def numpy_sce(a, b):
    a, b = softmax(a), softmax(b)
    return -0.5 * (b * np.log(a)).sum(1) - 0.5 * (a * np.log(b)).sum(1)


def numbers(tensor):
    return tensor.detach().double().numpy()


def test_weights_follow_the_formula():
    z, m = logits(), np.array([0.4, 0.3, 0.1, 0.1, 0.1])
    weight, kept = weights(torch.from_numpy(z), torch.from_numpy(m), 1 / 3)
    expected, who = numpy_weights(z, m, 1 / 3)
    assert np.allclose(weight, expected)
    assert (kept.numpy() == who).all()
    assert expected.min() >= 1
    assert expected.max() <= np.exp(3)


@pytest.mark.parametrize("n", [1, 6])
def test_where_all_are_equal_each_teaches_with_weight_one(n):
    weight, kept = weights(torch.tensor([[1.0, 2.0, 0.5]]).expand(n, -1), torch.full((3,), 1 / 3), 1 / 3)
    assert torch.equal(weight, torch.ones(n))
    assert kept.all()


def test_the_likelihood_ratio_is_clipped():
    z = logits()
    z[0] = [20, 0, 0, 0, 0]
    assert np.allclose(likelihood_ratio(torch.from_numpy(z)), numpy_slr(z))
    sure = torch.tensor([[20.0, 0.0, -3.0]], requires_grad=True)
    likelihood_ratio(sure).sum().backward()
    assert torch.isfinite(sure.grad).all()


def test_the_prior_multiplies_probabilities():
    z = logits(8, 5)
    q = softmax(z).mean(0)
    s = max(1 / 8, 1 / 5) / q.max()
    smooth = (q + s) / (1 + s * 5)
    products = softmax(z) * smooth
    expected = products / products.sum(1, keepdims=True)
    assert np.allclose(softmax(corrected(torch.from_numpy(z), "probability").numpy()), expected)
    assert np.allclose(corrected(torch.from_numpy(z), "logits"), z * smooth)
    assert np.array_equal(corrected(torch.from_numpy(z), "none"), z)


def test_only_the_form_of_the_reference_turns_negative_logits_round():
    z = torch.tensor([[9.0, 0.0, 0.0]]).repeat(20, 1)  # the first class is frequent
    z[0] = torch.tensor([-1.0, -1.2, -5.0])  # and likely here
    assert corrected(z, "logits")[0].argmax() == 1
    assert corrected(z, "probability")[0].argmax() == 0


def step(adapter, x, selection=None):
    raw = numbers(copy.deepcopy(adapter.model)(x))
    answers = adapter.forward(x)
    return raw, adapter.step(x, answers, selection or everyone(x))


def test_the_loss_is_the_weighted_likelihood_ratio_of_the_kept():
    adapter, x = Roid(tiny_net("batch"), consistency=0.0), batch()
    raw, report = step(adapter, x)
    weight, kept = numpy_weights(raw, np.full(4, 0.25), 1 / 3)
    assert report.loss == pytest.approx((numpy_slr(raw) * weight * kept).sum() / 16, abs=1e-5)
    assert report.used == kept.sum()


def test_the_view_of_the_kept_is_to_agree(monkeypatch):
    adapter, x = Roid(tiny_net("batch"), consistency=2.0), batch()
    monkeypatch.setattr(adapter, "augment", lambda x, generator: x.flip(3) * 0.7)
    before = copy.deepcopy(adapter.model)
    raw, report = step(adapter, x)
    weight, kept = numpy_weights(raw, np.full(4, 0.25), 1 / 3)
    view = numbers(before(x[torch.from_numpy(kept)].flip(3) * 0.7))
    each = numpy_slr(raw[kept]) + 2.0 * numpy_sce(view, raw[kept])
    assert report.loss == pytest.approx((each * weight[kept]).sum() / 16, rel=1e-4)


def test_who_is_not_selected_does_not_teach():
    adapter, x = Roid(tiny_net("batch"), consistency=0.0), batch()
    selection = Selection(torch.arange(0, 16, 2), torch.full((8,), 0.5))
    raw, report = step(adapter, x, selection)
    weight, kept = numpy_weights(raw, np.full(4, 0.25), 1 / 3)
    kept &= np.arange(16) % 2 == 0
    assert report.used == kept.sum()
    assert report.loss == pytest.approx((numpy_slr(raw) * weight * kept).sum() * 0.5 / 16, abs=1e-5)


def test_a_selection_of_usual_samples_only_touches_nothing():
    adapter, x = Roid(tiny_net("batch")), batch()
    raw = numbers(copy.deepcopy(adapter.model)(x))
    usual = np.flatnonzero(~numpy_weights(raw, np.full(4, 0.25), 1 / 3)[1])[:1]
    before = copy.deepcopy(adapter.state_dict())
    report = adapter.step(x, adapter.forward(x), Selection(torch.from_numpy(usual), torch.ones(1)))
    assert (report.used, report.loss) == (0, None)
    assert "mean" not in adapter.memory
    assert torch.equal(before["random"], adapter.generator.get_state())


def test_the_mean_answer_is_a_moving_average_over_all_samples():
    adapter, m = Roid(tiny_net("batch")), np.full(4, 0.25)
    for seed in range(3):
        raw, _ = step(adapter, batch(seed=seed))
        m = 0.9 * m + 0.1 * softmax(raw).mean(0)
    assert np.allclose(adapter.memory["mean"], m, atol=1e-6)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_weights_are_pulled_back_to_the_source_after_the_step(keep):
    one, other = (Roid(tiny_net("batch"), ensembling=k) for k in (keep, 1.0))
    for adapter in (one, other):
        learn(adapter, 1)
    free = other.moved()
    for name, (now, start) in one.moved().items():
        assert torch.allclose(now, keep * free[name][0] + (1 - keep) * start, atol=1e-6)


def test_the_statistics_are_those_of_the_batch_not_of_its_view():
    one, other = (Roid(tiny_net("batch"), consistency=c) for c in (0.0, 1.0))
    for adapter in (one, other):
        learn(adapter, 1)
    assert torch.equal(one.servable()[1].running_mean, other.servable()[1].running_mean)
    assert not torch.equal(one.servable()[1].running_mean, one.source[1].running_mean)


def test_without_consistency_any_inputs_will_do():
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3)).eval()
    adapter, x = Roid(net, consistency=0.0), torch.randn(9, 6)
    assert adapter.step(x, adapter.forward(x), everyone(x)).used


@pytest.mark.parametrize("option", [{"ensembling": 1.1}, {"temperature": 0.0}, {"consistency": -1.0}])
def test_options_out_of_range_are_named(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} .* is not between"):
        Roid(tiny_net("batch"), **option)


def test_the_correction_has_three_forms():
    with pytest.raises(ValueError, match="'probability', 'logits' or 'none'"):
        Roid(tiny_net("batch"), prior_correction="log")
    assert roid.CLIP == 0.99
