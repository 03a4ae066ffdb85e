"""EATA's loss and Fisher information against the formulas; without source data it is ETA."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

from tta_adapters import fisher
from tta_adapters.eata import Eata
from tta_adapters.tent import Tent
from tta_agent.core.types import Selection, SourceInfo
from tta_agent.testing import ADAPTER_CHECKS, batch, everyone, fingerprint, learn, same, tiny_net

SOURCE = SourceInfo(inputs=batch(100, seed=50, shift=0.0))


@pytest.mark.parametrize("check", ADAPTER_CHECKS, ids=lambda check: check.__name__)
def test_the_contract_with_an_anchor(check):
    check(lambda model: Eata(model, fisher_alpha=100.0, origin=SOURCE), tiny_net("batch"))


def softmax(logits):
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


class Scaled(nn.Module):
    """Features [B, C] scaled and shifted to logits: the gradients can be written down."""

    def __init__(self, classes=3):
        super().__init__()
        self.norm = nn.GroupNorm(1, classes)

    def forward(self, x):
        return self.norm(x)


def test_fisher_information_is_the_mean_squared_gradient_of_batch_means():
    model, x = Scaled(), torch.randn(150, 3, generator=torch.Generator().manual_seed(0))
    found = fisher.estimate(model, dict(model.named_parameters()), x)
    weight, bias, batches = np.zeros(3), np.zeros(3), (x[:64], x[64:128], x[128:])
    for one in batches:
        z = one.double().numpy()
        z = (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 1e-5)
        error = softmax(z) - np.eye(3)[z.argmax(1)]
        weight += (error * z).mean(0) ** 2 / len(batches)
        bias += error.mean(0) ** 2 / len(batches)
    assert np.allclose(found["norm.weight"], weight, rtol=1e-3, atol=1e-9)
    assert np.allclose(found["norm.bias"], bias, rtol=1e-3, atol=1e-9)


def test_the_loss_is_weighted_entropy_and_the_anchor():
    adapter = Eata(tiny_net("batch"), fisher_alpha=500.0, origin=SOURCE, lr=0.05)
    learn(adapter)
    x = batch(seed=9)
    logits = adapter.forward(x)
    p = softmax(logits.detach().double().numpy())
    h = -(p * np.log(p)).sum(1)
    source = dict(tiny_net("batch").named_parameters())
    distance = sum(
        float((f.double() * (adapter.parameters[name].detach() - source[name].detach()).double() ** 2).sum())
        for name, f in adapter.fisher.items()
    )
    assert 500 * distance > 1e-4
    chosen = Selection(torch.tensor([2, 5]), torch.tensor([1.5, 2.0]))
    expected = (1.5 * h[2] + 2.0 * h[5]) / 2 + 500 * distance
    assert abs(adapter.step(x, logits, chosen).loss - expected) < 1e-5


def test_the_anchor_holds_the_copy_near_the_source():
    def distance(alpha):
        adapter = Eata(tiny_net("group"), fisher_alpha=alpha, origin=SOURCE, lr=0.02)
        learn(adapter, steps=15)
        return adapter.distance().item()

    assert 0 < distance(1e4) < distance(1e-9) / 2


def test_without_source_data_it_is_eta_and_says_so(caplog):
    caplog.set_level(logging.INFO)
    adapter, plain = Eata(tiny_net("batch")), Tent(tiny_net("batch"))
    assert "TTA_MODEL__SOURCE_DATA" in caplog.text
    learn(adapter)
    learn(plain)
    assert all(torch.equal(plain.parameters[name], p) for name, p in adapter.parameters.items())


def test_the_papers_filters():
    assert Eata.selectors == {"entropy": {"margin": 0.4, "weighted": True}, "redundancy": {"d": 0.4}}


def test_fisher_information_is_kept_by_content(tmp_path, monkeypatch):
    origin = SourceInfo(inputs=SOURCE.inputs, cache=tmp_path / "source")
    first = Eata(tiny_net("batch"), origin=origin)
    asked = []
    estimate = fisher.estimate
    monkeypatch.setattr(fisher, "estimate", lambda *given: asked.append(1) or estimate(*given))
    again = Eata(tiny_net("batch"), origin=origin)
    assert not asked
    assert same(list(first.fisher.values()), list(again.fisher.values()))
    learn(first)
    learn(again)
    assert same(fingerprint(first), fingerprint(again))
    Eata(tiny_net("batch", seed=1), origin=origin)
    Eata(tiny_net("batch"), origin=SourceInfo(inputs=SOURCE.inputs + 1, cache=origin.cache))
    assert len(asked) == 2
    assert len(list((tmp_path / "source").glob("fisher-*.pt"))) == 3


def test_only_so_many_source_samples_are_asked():
    seen = []

    def count(module, given):
        seen.append(len(given[0]))

    model = tiny_net("group")
    model.register_forward_pre_hook(count)
    Eata(model, origin=SOURCE, fisher_samples=70)
    assert seen == [64, 6]


def test_nobody_kept_is_no_pull_to_the_source_either():
    adapter, x = Eata(tiny_net("batch"), origin=SOURCE), batch()
    adapter.step(x, adapter.forward(x), everyone(x))
    before = fingerprint(adapter)
    adapter.step(x, adapter.forward(x), Selection(torch.arange(0), torch.ones(0)))
    assert same(before, fingerprint(adapter))


@pytest.mark.parametrize("options", [{"fisher_alpha": -1.0}, {"fisher_samples": 0}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match="fisher_alpha >= 0 and fisher_samples >= 1"):
        Eata(tiny_net("batch"), **options)
