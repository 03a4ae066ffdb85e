"""RMT against its formulas, in NumPy, and its promises."""

import copy

import numpy as np
import pytest
import torch

from tta_adapters import rmt
from tta_adapters.contrast import contrastive
from tta_adapters.rmt import Rmt
from tta_adapters.sample import Sample
from tta_agent.core.errors import CannotAdapt
from tta_agent.core.types import Selection, SourceInfo
from tta_agent.testing import CLASSES, batch, everyone, fingerprint, learn, same, tiny_net


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def numpy_sce(a, b):
    a, b = softmax(a), softmax(b)
    return -0.5 * (b * np.log(a)).sum(1) - 0.5 * (a * np.log(b)).sum(1)


def numpy_contrastive(views, tau):
    v, n, _ = views.shape
    z = views.reshape(v * n, -1)
    total = 0.0
    for a in range(v * n):
        others = sum(np.exp(z[a] @ z[i] / tau) for i in range(v * n) if i != a)
        mates = [p for p in range(v * n) if p != a and p % n == a % n]
        total += np.mean([np.log(np.exp(z[a] @ z[p] / tau) / others) for p in mates])
    return -total / (v * n)


def numbers(tensor):
    return tensor.detach().double().numpy()


def origin(n=40, *, labels=True, cache=None):
    generator = torch.Generator().manual_seed(7)
    classes = torch.randint(CLASSES, (n,), generator=generator) if labels else None
    return SourceInfo(inputs=batch(n, seed=7, shift=0.0), labels=classes, cache=cache)


def test_the_contrastive_loss_follows_the_formula():
    views = np.random.default_rng(0).normal(size=(3, 5, 6))
    views /= np.linalg.norm(views, axis=2, keepdims=True)
    assert float(contrastive(torch.from_numpy(views), 0.1)) == pytest.approx(numpy_contrastive(views, 0.1))


def test_the_contrastive_loss_is_finite_for_a_single_sample():
    views = torch.ones(3, 1, 4) / 2
    assert float(contrastive(views, 0.1)) == pytest.approx(np.log(2))
    assert float(contrastive(views[:2], 0.1)) == pytest.approx(0.0)


def test_the_answer_is_the_sum_of_both_from_before_the_step():
    adapter, x = Rmt(tiny_net("batch"), lr=0.01), batch()
    learn(adapter)
    expected = copy.deepcopy(adapter.model)(x) + copy.deepcopy(adapter.teacher)(x)
    assert torch.allclose(adapter.forward(x), expected, atol=1e-6)
    assert not torch.allclose(copy.deepcopy(adapter.model)(x), copy.deepcopy(adapter.teacher)(x))


def test_self_training_follows_the_formula(monkeypatch):
    adapter, x = Rmt(tiny_net("batch"), lr=0.01, contrast=0.0), batch()
    learn(adapter)
    monkeypatch.setattr(adapter, "augment", lambda x, generator: x.flip(3) * 0.7)
    student, teacher = copy.deepcopy(adapter.model), numbers(copy.deepcopy(adapter.teacher)(x))
    each = 0.5 * numpy_sce(numbers(student(x)), teacher) + 0.5 * numpy_sce(
        numbers(student(x.flip(3) * 0.7)), teacher
    )
    selection = Selection(torch.tensor([1, 4, 5]), torch.tensor([1.0, 0.5, 2.0]))
    expected = (each[[1, 4, 5]] * [1.0, 0.5, 2.0]).sum() / 3
    assert adapter.step(x, adapter.forward(x), selection).loss == pytest.approx(expected, abs=1e-5)


def test_contrast_is_between_sample_view_and_nearest_prototype(monkeypatch):
    plain, full = (Rmt(tiny_net("batch"), contrast=c, temperature=0.5) for c in (0.0, 2.0))
    for adapter in (plain, full):
        monkeypatch.setattr(adapter, "augment", lambda x, generator: x.flip(3) * 0.7)
    x = batch()
    body = copy.deepcopy(full.model)[:-1]
    f, v = numbers(body(x)), numbers(body(x.flip(3) * 0.7))
    c = numbers(full.memory["prototypes"])
    cosine = (f / np.linalg.norm(f, axis=1, keepdims=True)) @ (c / np.linalg.norm(c, axis=1, keepdims=True)).T
    weight = {name: numbers(p) for name, p in full.projector.named_parameters()}
    hidden = np.stack([c[cosine.argmax(1)], f, v]) @ weight["hidden.weight"].T + weight["hidden.bias"]
    g = np.maximum(hidden, 0) @ weight["out.weight"].T + weight["out.bias"]
    g /= np.linalg.norm(g, axis=2, keepdims=True)
    losses = [adapter.step(x, adapter.forward(x), everyone(x)).loss for adapter in (plain, full)]
    assert losses[1] - losses[0] == pytest.approx(2.0 * numpy_contrastive(g, 0.5), abs=1e-4)


def test_source_free_prototypes_are_the_directions_of_the_classifier():
    model = tiny_net("batch")
    rows = numbers(model[-1].weight)
    expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.allclose(Rmt(model).memory["prototypes"], expected, atol=1e-6)


@pytest.mark.parametrize("labels", [True, False])
def test_prototypes_are_class_means_under_batch_statistics(labels):
    model, known = tiny_net("batch"), origin(labels=labels)
    training = tiny_net("batch").train()
    features = numbers(training[:-1](known.inputs))
    answers = numbers(training(known.inputs)).argmax(1)
    classes = known.labels.numpy() if labels else answers
    expected = np.stack([features[classes == c].mean(0) for c in np.unique(classes)])
    assert np.allclose(Rmt(model, origin=known, warmup_steps=0).memory["prototypes"], expected, atol=1e-4)


def test_a_class_without_a_sample_gives_no_nan():
    known = origin()
    known.labels[known.labels == 2] = 0
    adapter, x = Rmt(tiny_net("batch"), origin=known), batch()
    assert adapter.memory["prototypes"].shape[0] == CLASSES - 1
    assert np.isfinite(adapter.step(x, adapter.forward(x), everyone(x)).loss)


def test_a_reset_comes_back_to_the_warmed_up_state():
    adapter = Rmt(tiny_net("batch"), origin=origin(), lr=0.01, warmup_steps=3)
    warm = fingerprint(adapter)
    assert not torch.equal(adapter.model[0].weight, adapter.source[0].weight)
    learn(adapter)
    assert not same(warm, fingerprint(adapter))
    adapter.reset()
    assert same(warm, fingerprint(adapter))


def test_warm_up_raises_the_learning_rate_in_equal_steps(monkeypatch):
    rates, follow = [], Rmt._warm_up
    monkeypatch.setattr(Rmt, "_warm_up", lambda self, x, lr: (rates.append(lr), follow(self, x, lr))[1])
    adapter = Rmt(tiny_net("batch"), origin=origin(), lr=0.01, warmup_steps=4)
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert {group["lr"] for group in adapter.optimizer.param_groups} == {0.01}
    assert int(adapter.optimizer.state_dict()["state"][0]["step"]) == 4  # its moments are kept


def test_a_step_of_warm_up_is_adam_on_the_symmetric_cross_entropy():
    known = origin()
    adapter = Rmt(tiny_net("batch"), origin=known, lr=0.01, ema=0.9, warmup_steps=1)
    twin = tiny_net("batch").train()
    p = twin(known.inputs)
    target = p.detach().softmax(1)
    loss = -0.5 * (target * p.log_softmax(1)).sum(1) - 0.5 * (p.softmax(1) * target.log()).sum(1)
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.01)
    loss.mean().backward()
    optimizer.step()
    assert torch.allclose(adapter.model[0].weight, twin[0].weight, atol=1e-4)
    source = tiny_net("batch")[0].weight
    assert torch.allclose(adapter.teacher[0].weight, 0.9 * source + 0.1 * twin[0].weight, atol=1e-4)


@pytest.mark.parametrize(("n", "steps"), [(40, 1), (250, 1), (700, 4)])
def test_warm_up_is_one_pass(n, steps):
    known = SourceInfo(inputs=batch(n, seed=7, shift=0.0))
    adapter = Rmt(tiny_net("batch"), origin=known, source_batch=200)
    assert int(adapter.optimizer.state_dict()["state"][0]["step"]) == steps


def test_what_is_prepared_is_kept_by_content(tmp_path, monkeypatch):
    known = origin(cache=tmp_path)
    first = Rmt(tiny_net("batch"), origin=known)
    with monkeypatch.context() as patch:
        patch.setattr(rmt, "prototypes", lambda *_: pytest.fail("computed again"))
        assert same(fingerprint(first), fingerprint(Rmt(tiny_net("batch"), origin=known)))
    assert len(list(tmp_path.iterdir())) == 1
    Rmt(tiny_net("batch", seed=1), origin=known)
    Rmt(tiny_net("batch"), origin=known, warmup_steps=3)
    Rmt(tiny_net("batch"), origin=origin(39, cache=tmp_path))
    assert len(list(tmp_path.iterdir())) == 4
    assert same(fingerprint(first), fingerprint(Rmt(tiny_net("batch"), origin=origin())))


@pytest.mark.parametrize("damage", [b"", b"no archive"])
def test_a_damaged_file_is_made_anew(tmp_path, damage, caplog):
    known = origin(cache=tmp_path)
    first = Rmt(tiny_net("batch"), origin=known)
    (file,) = tmp_path.iterdir()
    good = file.stat().st_size
    file.write_bytes(damage)
    assert same(fingerprint(first), fingerprint(Rmt(tiny_net("batch"), origin=known)))
    assert "made anew" in caplog.text
    assert file.stat().st_size == good


def test_replay_is_the_cross_entropy_on_drawn_source_samples():
    known, x = origin(), batch()
    one, other = (Rmt(tiny_net("batch"), origin=known, replay=r, contrast=0.0) for r in (0.0, 2.0))
    twin = torch.Generator().set_state(other.generator.get_state())
    other.augment(x, twin)
    inputs, labels = Sample.of(known, 64).draw(len(x), twin, torch.device("cpu"))
    p = softmax(numbers(copy.deepcopy(other.model)(inputs)))
    losses = [adapter.step(x, adapter.forward(x), everyone(x)).loss for adapter in (one, other)]
    expected = -2.0 * np.log(p[np.arange(len(x)), labels.numpy()]).mean()
    assert losses[1] - losses[0] == pytest.approx(expected, abs=1e-4)


def test_labelled_source_data_is_replayed_unless_told_otherwise():
    assert Rmt(tiny_net("batch"), origin=origin()).replay == 1.0
    assert Rmt(tiny_net("batch"), origin=origin(labels=False)).replay == 0.0
    assert Rmt(tiny_net("batch")).replay == 0.0


@pytest.mark.parametrize("known", [None, SourceInfo(), origin(labels=False)])
def test_replay_without_labels_says_what_to_set(known):
    with pytest.raises(CannotAdapt, match="TTA_MODEL__SOURCE_DATA"):
        Rmt(tiny_net("batch"), origin=known, replay=1.0)


def test_nan_in_source_data_is_found_at_the_start():
    known = origin()
    known.inputs[3, 0, 0, 0] = float("nan")
    with pytest.raises(CannotAdapt, match="TTA_MODEL__SOURCE_DATA"):
        Rmt(tiny_net("layer"), origin=known)


def test_fewer_source_samples_than_the_batch_are_drawn_repeatedly():
    inputs, labels = Sample.of(origin(5), 64).draw(16, torch.Generator(), torch.device("cpu"))
    assert len(inputs) == len(labels) == 16


def test_statistics_are_those_of_the_batch_not_of_views_or_source():
    free, full = Rmt(tiny_net("batch")), Rmt(tiny_net("batch"), origin=origin(), warmup_steps=0)
    for adapter in (free, full):
        learn(adapter, 1)
    means = [layer[1].mean for adapter in (free, full) for layer in (adapter.model, adapter.teacher)]
    assert all(torch.equal(mean, means[0]) for mean in means)
    assert not torch.equal(means[0], free.source[1].running_mean)


def test_served_is_the_teacher():
    adapter = Rmt(tiny_net("batch"), lr=0.01, ema=0.5)
    learn(adapter)
    served = dict(adapter.servable().named_parameters())
    assert all(torch.equal(p, served[name]) for name, p in adapter.teacher.named_parameters())
    assert not torch.equal(served["0.weight"], adapter.model[0].weight)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_the_head_of_a_timm_model_learns_and_answers(name):
    timm = pytest.importorskip("timm")
    options = {"img_size": 32} if "vit" in name else {}
    model = timm.create_model(name, num_classes=CLASSES, **options).eval()
    inputs = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    known = SourceInfo(inputs=inputs, labels=torch.arange(12) % CLASSES)
    adapter = Rmt(model, origin=known, lr=0.01)
    report = adapter.step(inputs, adapter.forward(inputs), everyone(inputs))
    assert np.isfinite(report.loss)
    head = model.get_classifier().weight
    assert not torch.equal(adapter.model.get_classifier().weight, head)
    assert adapter.forward(inputs).shape == (12, CLASSES)
    assert adapter.servable().state_dict().keys() == model.state_dict().keys()


def test_the_projection_learns_and_comes_back():
    adapter = Rmt(tiny_net("batch"))
    start = adapter.projector.hidden.weight.detach().clone()
    learn(adapter)
    assert not torch.equal(adapter.projector.hidden.weight, start)
    adapter.reset()
    assert torch.equal(adapter.projector.hidden.weight, start)
    assert not any("projector" in name for name in adapter.moved())


@pytest.mark.parametrize(
    "option", [{"contrast": -1.0}, {"temperature": 0.0}, {"ema": 1.5}, {"projection": 0}, {"source_batch": 1}]
)
def test_options_out_of_range_are_named(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} .* is not between"):
        Rmt(tiny_net("batch"), **option)
