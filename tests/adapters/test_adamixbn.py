"""AdaMixBN and GEM against their formulas, in NumPy, and against the paper's words."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tta_adapters.adamixbn import AdaMixBN
from tta_adapters.crops import random_crops
from tta_adapters.gem import gem
from tta_agent.core.errors import CannotAdapt
from tta_agent.core.types import Selection
from tta_agent.testing import batch, everyone, learn, tiny_net

CHANNELS, EPS = 3, 1e-5


def norm_net(channels=CHANNELS, seed=0):
    """One BatchNorm between pixels and answers, far from standard."""
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    net = nn.Sequential(
        nn.BatchNorm2d(channels), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)
    )
    layer = net[0]
    layer.running_mean = torch.randn(channels, generator=g)
    layer.running_var = torch.rand(channels, generator=g) + 0.5
    layer.weight.data = torch.rand(channels, generator=g) + 0.5
    layer.bias.data = torch.randn(channels, generator=g)
    return net.eval()


def images(n=6, side=4, seed=1):
    return 2 * torch.randn(n, CHANNELS, side, side, generator=torch.Generator().manual_seed(seed)) + 1


def numpy_mixture(x, mean_s, var_s):
    """alpha, mixed mean and variance, from the paper's words; one image after the other."""
    x, mean_s, var_s = (np.asarray(a, dtype=np.float64) for a in (x, mean_s, var_s))
    pooled = x.transpose(1, 0, 2, 3).reshape(x.shape[1], -1)
    mean_t, var_t = pooled.mean(1), pooled.var(1, ddof=1)

    def d(mean_a, std_a, mean_b, std_b):
        return np.mean((mean_a - mean_b) ** 2) + np.mean((std_a - std_b) ** 2)

    alphas = []
    for image in x:
        pixels = image.reshape(len(image), -1)
        i = pixels.mean(1), pixels.std(1, ddof=1)
        t, s = (mean_t, np.sqrt(var_t)), (mean_s, np.sqrt(var_s))
        alphas.append(1 - d(*t, *s) / (d(*t, *s) + d(*i, *s) + d(*i, *t)))
    alpha = np.mean(np.clip(alphas, 0, 1))
    return alpha, alpha * mean_s + (1 - alpha) * mean_t, alpha * var_s + (1 - alpha) * var_t


def numpy_norm(x, layer, mean, var):
    scale, shift = (p.detach().double().numpy()[None, :, None, None] for p in (layer.weight, layer.bias))
    x = x.double().numpy()
    return (x - mean[None, :, None, None]) / np.sqrt(var + EPS)[None, :, None, None] * scale + shift


@pytest.mark.parametrize("transform", [True, False])
@pytest.mark.parametrize("n", [1, 6])
def test_a_layer_normalises_by_the_mixture(transform, n):
    model, x = norm_net(), images(n)
    layer = AdaMixBN(model, transform=transform).norms["0"]
    _, mean, var = numpy_mixture(x, model[0].running_mean, model[0].running_var)
    assert np.allclose(layer(x).detach(), numpy_norm(x, model[0], mean, var), atol=1e-5)


def test_a_lone_sample_is_half_the_source():
    model, x = norm_net(), images(1)
    adapter = AdaMixBN(model)
    adapter.step(x, adapter.forward(x), everyone(x))
    assert abs(float(adapter.norms["0"].kept) - 0.5) < 1e-6


@pytest.mark.parametrize("kind", ["vectors", "pixels"])
def test_maps_of_one_value_are_finite(kind):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4))
    small = nn.Sequential(nn.Conv2d(1, 5, 8), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5, 4))
    for transform in (True, False):
        adapter = AdaMixBN({"vectors": flat, "pixels": small}[kind].eval(), transform=transform)
        for x in (batch(6), batch(1), torch.ones(4, 1, 8, 8)):
            report = adapter.step(x, adapter.forward(x), everyone(x))
            assert "nonfinite" not in report.diagnostics
            assert torch.isfinite(adapter.predict(x)).all()


def test_both_paths_agree_and_differ_in_the_gradient_to_what_lies_before():
    x = batch()
    through, stopped = (AdaMixBN(tiny_net("batch"), transform=transform) for transform in (False, True))
    one, other = through.forward(x), stopped.forward(x)
    assert torch.allclose(one, other, atol=1e-5)
    for adapter, logits in ((through, one), (stopped, other)):
        logits.square().sum().backward()
        assert adapter.parameters["4.weight"].grad.abs().sum() > 0
    assert torch.allclose(through.parameters["4.weight"].grad, stopped.parameters["4.weight"].grad, rtol=1e-3)
    assert not torch.allclose(
        through.parameters["1.weight"].grad, stopped.parameters["1.weight"].grad, rtol=1e-2
    )


def test_alpha_carries_no_gradient_under_the_transformation():
    model, x = norm_net(), images().requires_grad_()
    layer = AdaMixBN(model, transform=True).norms["0"]
    (gradient,) = torch.autograd.grad(layer(x)[0].square().sum(), x)
    pooled = x.detach().transpose(0, 1).flatten(1)
    _, mean, var = (torch.tensor(a).float() for a in numpy_mixture(x.detach(), *_source(model)))
    scale = model[0].weight.detach() * ((pooled.var(1, correction=0) + EPS) / (var + EPS)).sqrt()
    shift = model[0].bias.detach() + model[0].weight.detach() * (pooled.mean(1) - mean) / (var + EPS).sqrt()
    by_hand = x.detach().clone().requires_grad_()
    plain = nn.functional.batch_norm(by_hand, None, None, scale, shift, True, 0.0, EPS)
    assert torch.allclose(gradient, torch.autograd.grad(plain[0].square().sum(), by_hand)[0], atol=1e-4)


def _source(model):
    return model[0].running_mean, model[0].running_var


def numpy_gem(z, weight, target=None, literal=False):
    z = z.double().numpy()
    heat = 2 * (z - z.mean(1, keepdims=True)).std(1, ddof=1)
    q = np.exp(z / heat[:, None])
    q /= q.sum(1, keepdims=True)
    h = -((q if target is None else target.double().numpy()) * np.log(q)).sum(1) * weight
    return h.mean() * (heat**2).mean() if literal else (h * heat**2).mean()


@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize("taught", [False, True])
def test_gem_follows_the_formula(literal, taught):
    z = 3 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    target = z.flip(0).softmax(1) if taught else None
    chosen = Selection(torch.tensor([0, 2, 3]), torch.tensor([1.0, 0.5, 2.0]))
    expected = numpy_gem(
        z[chosen.index], chosen.weight.numpy(), None if target is None else target[chosen.index], literal
    )
    assert abs(float(gem(z, target, chosen, literal=literal)) - expected) < 1e-4


def test_the_temperatures_differ_only_where_the_samples_do():
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    one = Selection(torch.arange(5), torch.ones(5))
    assert abs(float(gem(z, None, one) - gem(z, None, one, literal=True))) > 1e-3
    alike = torch.stack([z[0].roll(i) for i in range(4)] + [z[0].flip(0)])
    assert abs(float(gem(alike, None, one) - gem(alike, None, one, literal=True))) < 1e-5


def test_temperature_and_teacher_carry_no_gradient():
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    heat = 2 * z.detach().std(1, keepdim=True)
    for own in (True, False):
        target = None if own else z.softmax(1)
        (got,) = torch.autograd.grad(gem(z, target, everyone(z)), z)
        q = (z / heat).softmax(1)
        fixed = q if own else z.detach().softmax(1)
        loss = -(heat.squeeze() ** 2 * (fixed * q.log()).sum(1)).mean()
        assert torch.allclose(got, torch.autograd.grad(loss, z)[0], atol=1e-6)


def test_equal_logits_have_a_finite_loss_and_gradient():
    z = torch.ones(3, 4, requires_grad=True)
    for target in (None, torch.full((3, 4), 0.25)):
        gem(z, target, everyone(z)).backward()
        assert torch.isfinite(z.grad).all()


def test_an_augmented_teacher_is_the_mean_of_the_views_logits():
    model, x = tiny_net("batch"), batch()
    model[-1].weight.data *= 30  # so that the mean of the logits is not that of the probabilities
    adapter = AdaMixBN(model, loss="gem-aug", views=2, episodic=True)
    generator = torch.Generator().manual_seed(0)
    views = torch.cat([random_crops(x, generator) for _ in range(2)])
    logits = adapter.forward(x)
    mean = adapter.predict(views).view(2, len(x), -1).mean(0)
    expected = numpy_gem(logits.detach(), np.ones(len(x)), mean.softmax(1))
    assert abs(adapter.step(x, logits, everyone(x)).loss / expected - 1) < 1e-5


def test_an_episode_leaves_the_weights_bit_for_bit():
    adapter = AdaMixBN(tiny_net("batch"), episodic=True, lr=0.1)
    learn(adapter)
    assert all(torch.equal(now, start) for now, start in adapter.moved().values())
    served = adapter.servable().state_dict()
    assert torch.equal(served["1.weight"], adapter.source[1].weight)
    assert not torch.equal(served["1.running_mean"], adapter.source[1].running_mean)


def test_an_episode_is_answered_by_one_plain_gradient_step():
    model, x = tiny_net("batch"), batch()
    adapter, other = AdaMixBN(model, episodic=True, lr=0.5), AdaMixBN(model)
    before = adapter.forward(x)
    adapter.step(x, before, everyone(x))
    loss = gem(other.forward(x), None, everyone(x))
    for p, gradient in zip(
        other.parameters.values(), torch.autograd.grad(loss, list(other.parameters.values())), strict=True
    ):
        p.data -= 0.5 * gradient
    assert torch.allclose(adapter.predict(x), other.predict(x), atol=1e-6)
    assert torch.allclose(adapter.predict(x.clone()), other.predict(x), atol=1e-6)
    assert not torch.allclose(adapter.predict(x), before, atol=1e-3)


@pytest.mark.parametrize("loss", ["gem-t", "gem-skd"])
def test_the_order_of_episodes_does_not_matter(loss):
    batches = [batch(seed=seed, shift=seed) for seed in range(4)]

    def answers(order):
        adapter = AdaMixBN(tiny_net("batch"), episodic=True, lr=0.1, loss=loss)
        found = {}
        for i in order:
            adapter.step(batches[i], adapter.forward(batches[i]), everyone(batches[i]))
            found[i] = adapter.predict(batches[i])
        return found

    one, other = answers([0, 1, 2, 3]), answers([3, 1, 0, 2])
    assert all(torch.equal(one[i], other[i]) for i in range(4))


def test_a_closed_episode_does_not_answer_for_another_batch():
    adapter, untouched = (AdaMixBN(tiny_net("batch"), episodic=True, lr=0.1) for _ in range(2))
    x, y = batch(seed=1), batch(seed=2)
    adapter.step(x, adapter.forward(x), everyone(x))
    assert torch.equal(adapter.predict(y), untouched.predict(y))
    adapter.forward(y)
    assert torch.equal(adapter.predict(x), untouched.predict(x))


def literal_rewrite(layer, x):
    """The authors' class, online: the transformed scale and shift are stored, and transformed again."""
    _, mean, var = numpy_mixture(x, layer.running_mean, layer.running_var)
    pooled = x.transpose(0, 1).flatten(1).double().numpy()
    mean_t, var_t = pooled.mean(1), pooled.var(1, ddof=1)
    with torch.no_grad():
        ratio = np.sqrt((var_t + EPS) / (var + EPS))
        step = torch.tensor((mean_t - mean) / np.sqrt(var + EPS)).float()
        layer.bias += layer.weight * step
        layer.weight *= torch.tensor(ratio).float()


def test_online_nothing_compounds_over_200_batches():
    """On a stream of constant shift, beside the stored rewrite, which doubles every few batches."""
    model = norm_net()
    adapter, literal = AdaMixBN(model, lr=1e-3, pull=0.01), copy.deepcopy(model)
    ours, stored = [], []
    for i in range(200):
        x = images(8, seed=i)
        adapter.step(x, adapter.forward(x), everyone(x))
        literal_rewrite(literal[0], x)
        ours.append(max(float((now - start).detach().abs().max()) for now, start in adapter.moved().values()))
        stored.append(float((literal[0].weight - model[0].weight).detach().abs().max()))
    assert stored[19] > 1
    assert not stored[-1] < 1e6
    assert 0.01 < max(ours) < 0.11  # lr / pull, and a little for Adam's momentum


def test_the_pull_closes_a_share_of_the_distance():
    one, other = AdaMixBN(norm_net(), pull=0.0), AdaMixBN(norm_net(), pull=0.25)
    x = images()
    for adapter in (one, other):
        adapter.step(x, adapter.forward(x), everyone(x))
    for (free, start), (pulled, _) in zip(one.moved().values(), other.moved().values(), strict=True):
        assert torch.allclose(pulled - start, 0.75 * (free - start), atol=1e-6)


def test_relative_losses_do_not_push_harder_where_logits_are_larger():
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))

    def push(scale, relative):
        logits = (scale * z).requires_grad_()
        loss = gem(logits, None, everyone(z), relative=relative)
        return float(torch.autograd.grad(loss, logits)[0].norm())

    assert abs(push(10, False) / push(1, False) - 10) < 1e-3
    assert abs(push(10, True) / push(1, True) - 0.1) < 1e-3


@pytest.mark.parametrize("literal", [False, True])
def test_online_the_loss_is_in_units_of_its_mean_square_temperature(literal):
    adapter, x = AdaMixBN(norm_net(), temperature="literal" if literal else "per-sample"), images()
    logits = adapter.forward(x)
    heat = 2 * logits.detach().double().numpy().std(1, ddof=1)
    expected = numpy_gem(logits.detach(), np.ones(6), literal=literal) / (heat**2).mean()
    assert abs(adapter.step(x, logits, everyone(x)).loss - expected) < 1e-5


def test_without_learning_the_transformation_of_the_200th_batch_is_that_of_the_first():
    adapter, x = AdaMixBN(tiny_net("batch"), lr=0.0), batch()
    first = adapter.forward(x).detach()
    learn(adapter, 200)
    assert torch.equal(adapter.forward(x), first)


def test_what_is_served_is_the_average_mixture():
    model = norm_net()
    adapter = AdaMixBN(model, momentum=0.3, change=float("inf"))
    mean, var = (b.double().numpy().copy() for b in _source(model))
    kept = None
    for n in range(1, 6):
        x = images(8, seed=n)
        adapter.step(x, adapter.forward(x), everyone(x))
        share = max(0.3, 1 / n)
        pooled = x.transpose(0, 1).flatten(1).double().numpy()
        alpha, _, _ = numpy_mixture(x, *_source(model))
        var += share * (pooled.var(1, ddof=1) - var) + share * (1 - share) * (pooled.mean(1) - mean) ** 2
        mean += share * (pooled.mean(1) - mean)
        kept = alpha if kept is None else kept + share * (alpha - kept)
    served, (mean_s, var_s) = adapter.servable()[0], (b.double().numpy() for b in _source(model))
    assert np.allclose(served.running_mean, kept * mean_s + (1 - kept) * mean, atol=1e-5)
    assert np.allclose(served.running_var, kept * var_s + (1 - kept) * var, atol=1e-5)


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_a_model_without_batchnorm_is_refused(kind):
    with pytest.raises(CannotAdapt, match="scale and shift of BatchNorm"):
        AdaMixBN(tiny_net(kind))


@pytest.mark.parametrize(
    "wrong", [{"loss": "gem"}, {"temperature": "hot"}, {"views": 0}, {"pull": 1.5}, {"prior": 8.0}]
)
def test_options_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        AdaMixBN(tiny_net("batch"), **wrong)
