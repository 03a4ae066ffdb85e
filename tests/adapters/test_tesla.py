"""TeSLA against its formulas, in NumPy, and against the paper's words."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.parts.reference_stats import Reference
from tta_adapters import tesla, tesla_queues
from tta_adapters.crops import random_crops
from tta_adapters.pixels import Pixels
from tta_adapters.tesla import Tesla
from tta_adapters.tesla_adversary import Adversary, channel_means, drifted
from tta_adapters.tesla_operations import OPERATIONS
from tta_adapters.tesla_policy import PAIRS, Policy
from tta_agent.core.errors import CannotAdapt
from tta_agent.core.types import Selection, SourceInfo
from tta_agent.models.batchnorm import AdaptiveBatchNorm
from tta_agent.scoring.sample_scores import entropy
from tta_agent.testing import batch, everyone, learn, nobody, tiny_net

HEAD = {"8.weight", "8.bias"}


def sharp_net(kind="batch"):
    """Surer answers than an untrained head gives."""
    model = tiny_net(kind)
    model[-1].weight.data *= 20
    return model


def taught_by(adapter, look, hard, views, monkeypatch):
    """With these views instead of random ones; the student sees `look`-th of them and `hard`."""
    given = iter(views)
    monkeypatch.setattr(tesla, "random_crops", lambda x, generator: next(given))
    monkeypatch.setattr(adapter.adversary, "hard", lambda x, generator, learned: hard)
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor(look))


def numpy_softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("look", [0, 2])
def test_the_loss_follows_the_formula(look, monkeypatch):
    adapter, x = Tesla(sharp_net(), views=2, kl=0.7, policy=False), batch()
    looks, hard = [x, batch(seed=5), batch(seed=6)], batch(seed=7)
    taught_by(adapter, look, hard, looks[1:], monkeypatch)
    trained = sharp_net().train()  # batch statistics
    logits = [trained(one).detach().double().numpy() for one in (*looks, hard)]
    y = np.mean([numpy_softmax(z) for z in logits[:3]], axis=0)[[1, 4, 5]]
    p, q = numpy_softmax(logits[look])[[1, 4, 5]], numpy_softmax(logits[3])[[1, 4, 5]]
    w, pbar = np.array([1.0, 0.5, 2.0]), p.mean(0)
    expected = (
        -(w * (p * np.log(y)).sum(1)).mean()
        + (pbar * np.log(pbar)).sum()
        + 0.7 * (w * (y * np.log(y / q)).sum(1)).mean()
    )
    selection = Selection(torch.tensor([1, 4, 5]), torch.tensor([1.0, 0.5, 2.0]))
    report = adapter.step(x, adapter.forward(x), selection)
    assert abs(report.loss - expected) < 1e-4
    assert (report.seen, report.used) == (16, 3)


def test_answers_of_exactly_zero_are_finite():
    model = tiny_net("batch")
    model[-1].weight.data *= 1e5
    adapter, x = Tesla(model), batch()
    report = adapter.step(x, adapter.forward(x), everyone(x))
    assert "nonfinite" not in report.diagnostics
    assert math.isfinite(report.loss)


def test_everything_but_the_classifier_learns():
    model = tiny_net("batch")
    adapter = Tesla(model)
    learn(adapter)
    names = {name for name, _ in model.named_parameters()}
    assert set(adapter.moved()) == names - HEAD
    assert all(not torch.equal(now, start) for now, start in adapter.moved().values())
    served = adapter.servable().state_dict()
    assert all(torch.equal(served[name], model.state_dict()[name]) for name in HEAD)


def test_the_teacher_follows_and_is_served():
    model, x = tiny_net("group"), batch()
    adapter = Tesla(model, ema=0.9)
    adapter.step(x, adapter.forward(x), everyone(x))
    for name, served in adapter.servable().named_parameters():
        student, source = adapter.model.get_parameter(name), model.get_parameter(name)
        assert torch.allclose(served, 0.9 * source + 0.1 * student, atol=1e-6)


@pytest.mark.parametrize(("kind", "prior"), [("batch", 0), ("batch", 8), ("group", 0), ("layer", 0)])
def test_the_answers_are_those_that_are_served(kind, prior):
    adapter, x = Tesla(tiny_net(kind), prior=prior), batch(seed=9)
    learn(adapter)
    with torch.no_grad():
        served = adapter.servable()(x)
    assert torch.allclose(adapter.predict(x), served, atol=1e-6)
    assert torch.equal(adapter.forward(x), adapter.predict(x))
    assert torch.allclose(adapter.predict(x[:1]), served[:1], atol=1e-5)


def test_running_statistics_are_those_of_the_plain_views():
    adapter = Tesla(tiny_net("batch"), momentum=0.3, change=math.inf)
    conv = adapter.source[0]
    start = (b.double().numpy() for b in (adapter.source[1].running_mean, adapter.source[1].running_var))
    expected = Reference(*start, momentum=0.3, change=math.inf)
    for n in range(1, 5):
        x = batch(seed=n)
        expected.absorb(adapter.teacher[0](x).detach().numpy())
        adapter.step(x, adapter.forward(x), everyone(x))
    mean, var = expected.served
    assert conv is not adapter.teacher[0]
    assert np.allclose(adapter.servable()[1].running_mean, mean, atol=1e-5)
    assert np.allclose(adapter.servable()[1].running_var, var, atol=1e-5)


def test_learning_passes_use_the_statistics_of_their_batch():
    """Shift and scale of the input change nothing behind a BatchNorm that looks at the batch."""
    model = nn.Sequential(nn.BatchNorm2d(1), *tiny_net("batch")).eval()
    one, other = Tesla(model, kl=0.0, policy=False), Tesla(model, kl=0.0, policy=False)
    x = batch()
    losses = [a.step(z, a.forward(z), everyone(z)).loss for a, z in ((one, x), (other, 5 * x - 2))]
    assert abs(losses[0] - losses[1]) < 1e-4


@pytest.mark.parametrize(
    ("policy", "passes"), [(True, {"teacher": 6, "student": 2}), (False, {"teacher": 5, "student": 2})]
)
def test_a_step_costs_no_more_passes_than_promised(policy, passes):
    adapter, x = Tesla(tiny_net("batch"), policy=policy), batch()
    logits, count = adapter.forward(x), {"teacher": 0, "student": 0}
    for name, model in (("teacher", adapter.teacher), ("student", adapter.model)):
        model.register_forward_hook(lambda *_, name=name: count.update({name: count[name] + 1}))
    adapter.step(x, logits, everyone(x))
    assert count == passes


def test_random_numbers_are_its_own():
    before = torch.get_rng_state()
    adapters = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        adapters.append(Tesla(tiny_net("batch", seed=0)))
        torch.set_rng_state(state)
        for i in range(3):
            x = batch(seed=i)
            adapters[-1].step(x, adapters[-1].forward(x), everyone(x))
        assert torch.equal(torch.get_rng_state(), state)
    torch.set_rng_state(before)
    assert torch.equal(adapters[0].predict(x), adapters[1].predict(x))


def test_the_policy_starts_anew_but_not_its_optimiser():
    adapter = Tesla(tiny_net("batch"), policy_reset=3)
    learn(adapter, 2)
    assert adapter.policy.preference.abs().sum() > 0
    learn(adapter, 1)
    assert adapter.policy.preference.abs().sum() == adapter.policy.strength.abs().sum() == 0
    assert adapter.adversary.optimizer.state[adapter.policy.preference]["step"] == 3


def test_by_default_the_policy_never_starts_anew():
    adapter = Tesla(tiny_net("batch"))
    learn(adapter, 3)
    assert adapter.policy.strength.abs().sum() > 0


def test_the_score_function_of_the_pairs():
    adapter, x = Tesla(sharp_net(), drift=0.5), batch(12)
    generator = torch.Generator().manual_seed(3)
    draw = adapter.policy.draw(12, generator, learned=False)
    generator.manual_seed(3)
    with adapter._learning(), torch.no_grad():
        with channel_means(adapter.teacher) as before:
            adapter.teacher(x)
        with channel_means(adapter.teacher) as now:
            mean, std = Pixels(None).scale(x)
            pixels = adapter.policy((x * std + mean).clamp(0, 1), draw, torch.full((12, 2), 0.5))
            logits = adapter.teacher((pixels - mean) / std)
        selection = Selection(torch.tensor([0, 3, 7]), torch.tensor([1.0, 2.0, 0.5]))
        adapter.adversary.learn(adapter.teacher, x, before, selection, generator)
    p = numpy_softmax(logits.double().numpy())
    moved = [((a - b) ** 2).double().numpy().mean(1) for a, b in zip(now, before, strict=True)]
    unwanted = 0.5 * np.mean(moved, axis=0) + (p * np.log(p)).sum(1)
    expected = np.zeros(91)
    for i, weight in ((0, 1.0), (3, 2.0), (7, 0.5)):
        expected -= weight * unwanted[i] / 91 / 3
        expected[int(draw.pair[i])] += weight * unwanted[i] / 3
    assert np.allclose(adapter.policy.preference.grad, expected, atol=1e-5)


def test_the_adversary_finds_what_makes_the_teacher_unsure():
    """A teacher that is sure of what is bright: the adversary learns to darken."""
    teacher = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2, bias=False))
    teacher[-1].weight.data = torch.tensor([[4.0], [0.0]])
    teacher.requires_grad_(False)
    adversary, generator = Adversary(Policy(), Pixels(None), 1.0), torch.Generator().manual_seed(0)
    x = 0.8 + 0.2 * torch.rand(64, 1, 8, 8, generator=generator)
    unsure = []
    for _ in range(60):
        unsure.append(float(entropy(teacher(adversary.hard(x, generator))).mean()))
        adversary.learn(teacher, x, [], everyone(x), generator)
    assert np.mean(unsure[:5]) < 0.35
    assert np.mean(unsure[-5:]) > 0.5
    names = [{OPERATIONS[i].apply.__name__ for i in pair} for pair in PAIRS]
    darkens = torch.tensor([bool({"brightness", "invert", "solarize"} & pair) for pair in names])
    assert adversary.policy.preference.detach().softmax(0)[darkens].sum() > 0.65  # by chance 0.4
    dims = [PAIRS[i].index(6) for i in range(91) if 6 in PAIRS[i]]
    strength = adversary.policy.strength.detach()[["brightness" in pair for pair in names]]
    assert (strength[torch.arange(len(dims)), dims] < 0).float().mean() > 0.7


def test_the_adversary_leaves_no_trace_in_the_teacher():
    adapter, x = Tesla(tiny_net("batch")), batch()
    layers = [m for m in adapter.teacher.modules() if isinstance(m, AdaptiveBatchNorm)]
    with adapter._learning(), channel_means(adapter.teacher) as before:
        adapter.teacher(x)
    remembered = [layer._batch for layer in layers]
    with adapter._learning():
        adapter.adversary.learn(adapter.teacher, x, before, everyone(x), adapter.generator)
    assert all(layer._batch is batch for layer, batch in zip(layers, remembered, strict=True))


@pytest.mark.parametrize("kind", ["batch", "group", "layer"])
def test_drift_is_the_change_of_the_channels_means(kind):
    """The layer after the first convolution sees that convolution's output."""
    model, x = Tesla(tiny_net(kind)).teacher, batch(3)
    with torch.no_grad(), channel_means(model) as means:
        model(x)
    assert len(means) == 2
    assert np.allclose(means[0], model[0](x).detach().numpy().mean((2, 3)), atol=1e-6)
    moved = [m + torch.tensor([[0.0], [1.0], [2.0]]) for m in means]
    assert torch.allclose(drifted(moved, means, x), torch.tensor([0.0, 1.0, 4.0]), atol=1e-5)


def test_queues_hold_the_newest_of_their_class_and_the_nearest_vote():
    queues = tesla_queues.empty(3, 4, 5, torch.device("cpu"))
    rows, generator = {c: [] for c in range(3)}, torch.Generator().manual_seed(0)
    for _ in range(5):
        f, p = torch.randn(7, 5, generator=generator), torch.rand(7, 3, generator=generator).softmax(1)
        tesla_queues.push(queues, f, p)
        for one, other in zip(f, p, strict=True):
            rows[int(other.argmax())] = [*rows[int(other.argmax())], (one, other)][-4:]
    known = [row for c in range(3) for row in rows[c]]
    voted = tesla_queues.vote(queues, f, 2)
    for i in range(7):
        cosine = [float(f[i] @ g / (f[i].norm() * g.norm())) for g, _ in known]
        nearest = np.argsort(cosine)[-2:]
        assert np.allclose(voted[i], np.mean([known[j][1].numpy() for j in nearest], axis=0), atol=1e-6)


def test_alone_in_a_queue_a_sample_is_its_own_neighbour():
    queues = tesla_queues.empty(3, 4, 5, torch.device("cpu"))
    f, p = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)), torch.eye(3)[:2]
    tesla_queues.push(queues, f, p)
    assert torch.equal(tesla_queues.vote(queues, f, 1), p)
    assert torch.allclose(tesla_queues.vote(queues, f, 9), p.mean(0).expand(2, 3))


def test_refined_targets_are_learnt_from(monkeypatch):
    adapter, x = Tesla(tiny_net("batch"), queue=2, neighbours=1, kl=0.0), batch()
    seen = {}
    monkeypatch.setattr(
        adapter, "_student", lambda look, hard, target, selection: seen.update(y=target) or _zero(adapter)
    )
    adapter.step(x, adapter.forward(x), Selection(torch.tensor([4]), torch.ones(1)))
    assert all(torch.equal(seen["y"][i], seen["y"][4]) for i in range(16))  # the only one remembered


def _zero(adapter):
    return sum(p.sum() * 0 for p in adapter.model.parameters())


def test_pixels_are_recovered_where_their_scale_is_known():
    pixels = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1), torch.tensor([0.2, 0.3, 0.1]).view(1, 3, 1, 1)
    x = (pixels - mean) / std
    known_mean, known_std = Pixels(SourceInfo((0.5, 0.4, 0.3), (0.2, 0.3, 0.1))).scale(x)
    assert torch.allclose(x * known_std + known_mean, pixels, atol=1e-6)
    low, span = Pixels(None).scale(x)
    inside = x * span + low
    assert inside.min() >= -1e-6 and inside.max() <= 1 + 1e-6


def test_what_is_no_image_is_refused():
    adapter = Tesla(nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3)).eval())
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    assert random_crops(x, torch.Generator()) is x
    with pytest.raises(CannotAdapt, match="images"):
        adapter.step(x, adapter.forward(x), everyone(x))


def test_a_model_with_nothing_before_its_classifier_is_refused():
    with pytest.raises(CannotAdapt, match="all weights before the classifier"):
        Tesla(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)))


def test_nobody_selected_draws_no_random_number():
    adapter, x = Tesla(tiny_net("batch")), batch()
    before = adapter.generator.get_state()
    adapter.step(x, adapter.forward(x), nobody(x))
    assert torch.equal(before, adapter.generator.get_state())


@pytest.mark.parametrize(
    "wrong",
    [
        {"rotation": "none"},
        {"views": -1},
        {"neighbours": 0},
        {"ema": 1.5},
        {"kl": -1.0},
        {"drift": -2.0},
        {"queue": -3},
        {"marginal": 0.5},
        {"policy_reset": -4},
    ],
)
def test_options_outside_their_range_are_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        Tesla(tiny_net("batch"), **wrong)
