"""CoTTA against its formulas, in NumPy, and its promises."""

import copy

import numpy as np
import pytest
import torch

from tta_adapters.augment import local
from tta_adapters.cotta import Cotta, weights_and_biases
from tta_agent.core.types import Selection
from tta_agent.testing import batch, everyone, fingerprint, learn, nobody, same, tiny_net

SURE, UNSURE = 0.0, 1.0  # thresholds under which the source always (never) is sure enough


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def numpy_cross_entropy(target, logits):
    return -(softmax(target) * np.log(softmax(logits))).sum(1)


def numbers(tensor):
    return tensor.detach().double().numpy()


def student(adapter, x):
    return numbers(copy.deepcopy(adapter.model)(x))


def test_a_sure_source_leaves_the_batch_as_it_is():
    model, x = tiny_net("batch"), batch()
    adapter = Cotta(model, threshold=SURE)
    assert torch.allclose(adapter.forward(x), tiny_net("batch").train()(x), atol=1e-5)


def test_the_target_is_the_mean_of_the_teachers_logits_over_the_views():
    adapter, x = Cotta(tiny_net("batch"), threshold=UNSURE, views=5, seed=3), batch()
    learn(adapter)
    twin = torch.Generator().set_state(adapter.generator.get_state())
    with torch.no_grad():
        views = np.stack([numbers(adapter.teacher(adapter.augment(x, twin))) for _ in range(5)])
    assert np.allclose(numbers(adapter.forward(x)), views.mean(0), atol=1e-5)
    assert np.ptp(views, axis=0).max() > 0.01


@pytest.mark.parametrize("threshold", [SURE, UNSURE])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loss_is_the_cross_entropy_to_the_target(threshold, symmetric):
    adapter, x = Cotta(tiny_net("batch"), threshold=threshold, symmetric=symmetric, views=3, lr=0.1), batch()
    learn(adapter)
    target, answer = adapter.forward(x), student(adapter, x)
    each = numpy_cross_entropy(numbers(target), answer)
    if symmetric:
        each = (each + numpy_cross_entropy(answer, numbers(target))) / 2
    selection = Selection(torch.tensor([1, 4, 5]), torch.tensor([1.0, 0.5, 2.0]))
    expected = (each[[1, 4, 5]] * [1.0, 0.5, 2.0]).sum() / 3
    assert adapter.step(x, target, selection).loss == pytest.approx(expected, abs=1e-5)


def test_the_teacher_follows_the_student_before_it_is_restored():
    one, other = (Cotta(tiny_net("batch"), threshold=SURE, ema=0.9, restore=r) for r in (0.0, 1.0))
    for adapter in (one, other):
        learn(adapter, 1)
    start, moved = dict(one.source.named_parameters()), dict(one.model.named_parameters())
    for adapter in (one, other):
        for name, parameter in adapter.teacher.named_parameters():
            assert torch.allclose(parameter, 0.9 * start[name] + 0.1 * moved[name], atol=1e-6)


def test_restored_with_certainty_the_student_is_the_source():
    adapter = Cotta(tiny_net("batch"), restore=1.0, views=1)
    learn(adapter)
    assert all(torch.equal(now, start) for now, start in adapter.moved().values())


def test_the_share_that_is_restored_is_the_probability():
    adapter = Cotta(tiny_net("layer"), threshold=SURE, restore=0.3, lr=0.1)
    adapter.forward(batch())
    for now, start in adapter.moved().values():
        now.data.copy_(start + 1)
    adapter.finish()
    back = torch.cat([(now == start).flatten() for now, start in adapter.moved().values()]).double()
    assert abs(back.mean() - 0.3) < 4 * (0.21 / len(back)) ** 0.5


def test_masks_are_fresh_at_every_step():
    adapter = Cotta(tiny_net("layer"), threshold=SURE, restore=0.3)
    masks = []
    for _ in range(2):
        adapter.forward(batch())
        for now, start in adapter.moved().values():
            now.data.copy_(start + 1)
        adapter.finish()
        masks.append(torch.cat([(now == start).flatten() for now, start in adapter.moved().values()]))
    assert not torch.equal(*masks)


@pytest.mark.parametrize(
    ("kind", "threshold", "passes"), [("batch", SURE, 3), ("batch", UNSURE, 35), ("layer", UNSURE, 34)]
)
def test_views_cost_passes_only_where_they_are_used(kind, threshold, passes):
    adapter, x, count = Cotta(tiny_net(kind), threshold=threshold), batch(4), []
    for model in (adapter.model, adapter.teacher, adapter.anchor):
        model.register_forward_hook(lambda *_: count.append(1))
    adapter.step(x, adapter.forward(x), everyone(x))
    assert len(count) == passes


def test_random_numbers_are_only_used_up_by_a_step():
    adapter, x = Cotta(tiny_net("batch"), threshold=UNSURE, views=2), batch()
    before = fingerprint(adapter)
    first = adapter.forward(x)
    adapter.step(x, first, nobody(x))
    assert same(before, fingerprint(adapter))
    assert torch.equal(adapter.predict(x), first)
    state = adapter.generator.get_state()
    adapter.step(x, adapter.forward(x), everyone(x))
    assert not torch.equal(state, adapter.generator.get_state())


def test_no_random_number_is_used_twice():
    adapter, x = Cotta(tiny_net("batch"), threshold=UNSURE, views=2), batch()
    twin = torch.Generator().set_state(adapter.generator.get_state())
    for _ in range(2):
        adapter.augment(x, twin)
    local(twin, x.device)  # the masks
    learn(adapter, 1)
    assert torch.equal(twin.get_state(), adapter.generator.get_state())


def test_served_is_the_teacher_with_statistics_of_the_batch_itself():
    one, other = (Cotta(tiny_net("batch"), threshold=t, views=2) for t in (SURE, UNSURE))
    for adapter in (one, other):
        learn(adapter, 1)
    served = dict(one.servable().named_parameters())
    assert all(torch.equal(p, served[name]) for name, p in one.teacher.named_parameters())
    statistics = [adapter.servable()[1].running_mean for adapter in (one, other)]
    assert torch.allclose(*statistics, atol=1e-6)
    assert not torch.allclose(statistics[0], one.source[1].running_mean)


def test_the_marginal_term_reaches_the_student():
    one, other = (Cotta(tiny_net("batch"), threshold=SURE, restore=0.0, marginal=m) for m in (0.0, 1.0))
    for adapter in (one, other):
        learn(adapter, 1)
    assert not same(fingerprint(one), fingerprint(other))


def test_tokens_and_embeddings_do_not_learn():
    net = tiny_net("layer")
    net.token = torch.nn.Parameter(torch.zeros(3))
    assert "token" not in weights_and_biases(net)
    assert len(weights_and_biases(net)) == len(list(net.parameters())) - 1


@pytest.mark.parametrize("option", [{"threshold": 1.5}, {"restore": -0.1}, {"views": 0}, {"ema": 2.0}])
def test_options_out_of_range_are_named(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} .* is not between"):
        Cotta(tiny_net("batch"), **option)
