"""The statistics that are served: quick after a change, quiet after it, never more than asked for."""

import math

import numpy as np
import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from tests.parts.reference_stats import Reference
from tta_adapters.adamixbn import AdaMixBN
from tta_adapters.norm import Norm
from tta_agent.models.batchnorm import AdaptiveBatchNorm, StatsConfig, absorb
from tta_agent.models.freeze import served_names
from tta_agent.testing import batch, everyone, tiny_net


def layer(**estimate):
    return AdaptiveBatchNorm(nn.BatchNorm2d(8), StatsConfig(**estimate))


def draws(n, *, mean=0.0, scale=1.0, seed=0):
    """n batches [64, 8, 4, 4] of one domain."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(64, 8, 4, 4, generator=generator) * scale + mean for _ in range(n)]


def feed(norm, batches):
    shares = []
    for x in batches:
        norm(x)
        norm.absorb()
        shares.append(1 / float(norm.count))
    return shares


def mixed_sizes():
    """Batches of two domains, and of 64, 3, 1 and 200 samples."""
    batches = [*draws(4, seed=1), *draws(3, mean=1.0, scale=2.0, seed=2)]
    return [*batches, batches[0][:3], batches[1][:1], torch.cat(batches[:4])[:200], *batches[:2]]


def test_shares_follow_the_formula_in_numpy():
    batches = [*draws(4, seed=1), *draws(3, mean=1.0, scale=2.0, seed=2)]
    norm, expected = layer(momentum=0.1, change=3.0), Reference(np.zeros(8), np.ones(8))
    shares = feed(norm, batches)
    for x in batches:
        expected.absorb(x)
    assert np.allclose(shares, expected.shares, rtol=1e-3)
    assert max(shares[4:]) > 0.9  # the other domain
    assert np.allclose(norm.mean, expected.mean, atol=1e-4)


@pytest.mark.parametrize("first", [0, 2, 7, 8])
def test_layers_of_all_sizes_together_follow_the_formula_of_each_alone(first):
    sizes, batches = (8, 5, 1, 3), mixed_sizes()[first:]
    norms = [AdaptiveBatchNorm(nn.BatchNorm2d(c), StatsConfig(momentum=0.2, change=2.0)) for c in sizes]
    for i, norm in enumerate(norms):
        norm.source_mean.fill_(0.1 * i)
    references = [Reference(n.source_mean.numpy(), n.source_var.numpy(), 0.2, 2.0) for n in norms]
    for x in batches:
        for i, (norm, expected) in enumerate(zip(norms, references, strict=True)):
            given = x[:, : sizes[i]] * (1 + i)
            norm(given)
            expected.absorb(given)
        assert absorb(norms)
    for norm, expected in zip(norms, references, strict=True):
        mean, var = expected.served
        assert np.allclose(norm.served()["running_mean"], mean, atol=1e-4)
        assert np.allclose(norm.served()["running_var"], var, rtol=1e-4)
        assert np.allclose(float(norm.count * norm.size), expected.n, rtol=1e-3)
        assert np.allclose(norm.apart, expected.rho, rtol=1e-3, atol=1e-6)


def test_a_layer_alone_and_among_others_moves_by_the_same_numbers():
    (one, other, alone), x = (layer(), layer(), layer()), draws(3)
    for part in x:
        for norm in (one, other, alone):
            norm(part)
        assert absorb([one, other]) and alone.absorb()
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), alone.buffers(), strict=True))


def test_absorbing_waits_for_the_device_once(monkeypatch):
    norms = [layer() for _ in range(5)]
    for norm in norms:
        feed(norm, draws(1))
        norm(draws(1, seed=3)[0])
    waits = []
    for name in ("__float__", "__int__", "__bool__", "item", "tolist"):
        plain = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda t, plain=plain: (waits.append(1), plain(t))[1])
    absorb(norms)
    for norm in norms:
        norm(draws(1, seed=4)[0])
    assert len(waits) == 1


def test_one_batch_far_from_the_source_is_served_nearly_as_it_is():
    norm, x = layer(), draws(1, mean=2.0, scale=0.5)[0]
    feed(norm, [x])
    assert torch.allclose(norm.served()["running_mean"], x.mean((0, 2, 3)), atol=0.02)
    assert torch.allclose(norm.served()["running_var"], x.var((0, 2, 3)), rtol=0.02)


@pytest.mark.parametrize("count", [1, 5])
def test_batches_that_differ_from_the_source_by_chance_alone_leave_it_in_place(count):
    """Of 8 channels: nearer to the source than the batches themselves, in the mean over 20 streams."""
    left = np.zeros(2)
    for seed in range(20):
        norm = layer()
        feed(norm, [x[:16] for x in draws(count, seed=100 + seed)])
        left += float(norm.mean.square().mean()), float(norm.served()["running_mean"].square().mean())
    assert left[1] < 0.5 * left[0]


def test_a_lone_sample_is_believed_half():
    norm = layer()
    feed(norm, [draws(1, mean=3.0)[0][:1]])
    assert torch.allclose(norm.served()["running_mean"], norm.mean / 2)


def test_averages_of_an_older_version_stay_until_a_batch_begins_new_ones():
    old = layer()
    feed(old, draws(3))
    state = {name: value.clone() for name, value in old.state_dict().items()}
    state = {n: t for n, t in state.items() if n not in ("size", "last", "shrunk")} | {
        "apart": torch.ones(())
    }
    new = layer()
    new.load_state_dict(state)
    assert torch.equal(new.served()["running_mean"], old.mean)
    assert feed(new, draws(1, mean=5.0)) == [1.0]


def test_a_change_of_domain_is_followed_at_once():
    norm = layer(momentum=0.05)
    feed(norm, draws(20))
    share = feed(norm, draws(1, mean=2.0, scale=0.5, seed=5))[0]
    assert share > 0.9
    assert torch.allclose(norm.mean, torch.full((8,), 2.0), atol=0.25)


def test_without_a_change_the_averages_grow_quiet():
    norm = layer(momentum=0.05)
    shares = feed(norm, draws(40))
    assert np.mean(shares[20:]) < 0.08
    assert float(norm.mean.abs().max()) < 0.05


def test_one_class_at_a_time_is_as_wide_as_all_together():
    norm = layer(momentum=0.02, change=math.inf)
    batches = [x + (2.0 if i % 2 else -2.0) for i, x in enumerate(draws(200))]
    feed(norm, batches)
    assert torch.allclose(norm.var, torch.full((8,), 5.0), atol=0.3)  # 1 within, 4 between


def test_infinity_never_follows_a_change():
    norm = layer(momentum=0.05, change=math.inf)
    feed(norm, draws(20))
    assert feed(norm, draws(1, mean=2.0))[0] == pytest.approx(0.05, abs=1e-3)


def test_a_prior_mixes_batch_and_source_as_in_the_paper():
    x = draws(1, mean=0.7, scale=1.5)[0]
    norm = layer(prior=16)
    maps = x.numpy().transpose(1, 0, 2, 3).reshape(8, -1)
    kept = 16 / (16 + 64)
    mean, var = (1 - kept) * maps.mean(1), kept + (1 - kept) * maps.var(1, ddof=1)
    expected = (x.numpy() - mean[:, None, None]) / np.sqrt(var + 1e-5)[:, None, None]
    assert np.allclose(norm(x).detach().numpy(), expected, atol=1e-3)


def test_what_is_served_is_mixed_alike():
    adapter = Norm(tiny_net("batch"), prior=16)
    x = batch()
    adapter.step(x, adapter.forward(x), everyone(x))
    norm = next(iter(adapter.norms.values()))
    kept = 16 / (16 + len(x))
    served = served_names(adapter.model)
    name = f"{next(iter(adapter.norms))}.running_mean"
    assert torch.allclose(served[name], kept * norm.source_mean + (1 - kept) * norm.mean, atol=1e-6)


def test_gradients_go_through_the_batch_statistics_with_a_prior():
    x = draws(1)[0].requires_grad_()
    layer(prior=16)(x)[:, 0].sum().backward()
    assert float(x.grad.sum(dim=(0, 2, 3)).abs().max()) < 1e-3  # a shift of the whole channel changes nothing


@pytest.mark.parametrize("make", [Norm, AdaMixBN])
def test_an_activation_inside_the_layer_is_kept(make):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), BatchNormAct2d(8, act_layer=nn.SiLU), nn.Flatten(), nn.Linear(288, 4)
    )
    adapter, x = make(net.eval()), batch()
    seen = []
    adapter.norms["1"].register_forward_hook(lambda layer, given, answer: seen.append(answer))
    adapter.predict(x)
    assert float(seen[0].min()) > -0.28  # of SiLU; without it a normalised map goes far below
    if make is Norm:
        assert torch.allclose(adapter.forward(x), net.train()(x), atol=1e-4)


@pytest.mark.parametrize(
    "wrong", [{"momentum": 0}, {"momentum": 1.5}, {"change": 0.5}, {"prior": -1}, {"anchor": "sea"}]
)
def test_bad_values_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        StatsConfig(**wrong)


def test_where_one_layer_cannot_stay_finite_none_moves():
    first, second = layer(), layer()
    for norm in (first, second):
        feed(norm, draws(3))
    before = [t.clone() for t in second.buffers()]
    x = draws(1, seed=4)[0]
    x[0, 0, 0, 0] = 1e20
    second(first(x))
    assert not absorb([first, second])
    assert all(torch.equal(t, b) for t, b in zip(second.buffers(), before, strict=True))
    assert all(t.isfinite().all() for t in first.buffers())
    assert first.absorb()  # the batch is forgotten
    assert float(first.var.max()) < 2


@pytest.mark.parametrize("value", [1e20, -1e20, 3e38, math.nan, math.inf])
def test_a_layer_alone_absorbs_nothing_that_is_not_finite(value):
    norm = layer()
    feed(norm, draws(2))
    before = [t.clone() for t in norm.buffers()]
    x = draws(1, seed=4)[0]
    x[0, 0, 0, 0] = value
    norm(x)
    assert not norm.absorb()
    assert all(torch.equal(t, b) for t, b in zip(norm.buffers(), before, strict=True))
