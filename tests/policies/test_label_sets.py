"""Selectors and adapters on a net of images that answers label sets."""

from __future__ import annotations

import math

import pytest
import torch

from tta_adapters.consistency import symmetric_cross_entropy
from tta_adapters.learner import marginal_entropy
from tta_agent import testing
from tta_agent.core.types import View
from tta_agent.models import probing
from tta_agent.models.onnx_import import refusal
from tta_agent.scoring.sample_scores import entropy
from tta_policies.schedule.concentration_reset import concentration
from tta_policies.select.confidence_drop import ConfidenceDrop
from tta_policies.select.deyo import DeyoSelector
from tta_policies.select.entropy import Entropy
from tta_policies.select.plpd import Plpd

CPU, SHAPE = torch.device("cpu"), (1, 8, 8)


@pytest.fixture(scope="module")
def net():
    module = testing.tiny_net("batch")
    output, labels = probing.find(module, SHAPE, CPU, None, "multilabel")
    assert (output.kind, labels) == ("scores", 4)
    return module


def of_label(net, i):
    """The same net, asked about one label: logits [B, 2]."""
    return lambda x: net(x)[:, :, i]


def view(predict, x):
    with torch.no_grad():
        logits = predict(x)
        flat = predict(x * 0.5)
    return View(x, logits, predict, lambda: flat, lambda: flat)


def test_plpd_is_that_of_each_label_on_the_average(net):
    x, index = testing.batch(12), torch.arange(12)
    found = Plpd().drop(view(net, x), index)
    each = [Plpd().drop(view(of_label(net, i), x), index) for i in range(4)]
    assert found.shape == (12,) and torch.allclose(found, torch.stack(each).mean(0), atol=1e-6)
    kept = DeyoSelector(margin=1.0, threshold=-0.99).select(view(net, x))
    assert kept.index.tolist() == index.tolist() and kept.weight.shape == (12,)


def test_thresholds_are_shares_of_the_entropy_of_two_classes(net):
    x = testing.batch(12)
    with torch.no_grad():
        h = entropy(net(x))
    assert h.shape == (12,) and float(h.max()) <= math.log(2) + 1e-6
    middle = float(h.median()) / math.log(2) + 1e-6
    assert (
        Entropy(middle).select(view(net, x)).index.tolist()
        == (h < middle * math.log(2)).nonzero().flatten().tolist()
    )


def test_confidence_in_the_sources_labels_may_not_fall(net):
    x = testing.batch(12)
    unchanged = View(x, net(x).detach(), net, lambda: net(x).detach(), lambda: net(x).detach())
    assert len(ConfidenceDrop().select(unchanged).index) == 12
    flipped = View(x, -net(x).detach(), net, lambda: net(x).detach(), lambda: net(x).detach())
    assert len(ConfidenceDrop().select(flipped).index) == 0


def test_losses_are_means_over_labels(net):
    with torch.no_grad():
        one, other = net(testing.batch(6)), net(testing.batch(6, seed=4))
    each = [symmetric_cross_entropy(one[:, :, i], other[:, :, i]) for i in range(4)]
    assert torch.allclose(symmetric_cross_entropy(one, other), torch.stack(each).mean(0))
    marginals = torch.stack([marginal_entropy(one[:, :, i]) for i in range(4)])
    assert torch.allclose(marginal_entropy(one), marginals.mean())
    assert concentration(one) == pytest.approx(sum(concentration(one[:, :, i]) for i in range(4)) / 4)


@pytest.mark.parametrize("name", ["norm", "tent", "eata", "sar", "deyo", "roid", "cotta", "adamixbn"])
def test_an_adapter_takes_a_round_on_label_sets(name, net):
    assert refusal(name, net, SHAPE) is None


@pytest.mark.parametrize("name", ["rmt", "tesla"])
def test_one_that_needs_a_single_class_is_refused(name, net):
    assert "needs exclusive classes" in refusal(name, net, SHAPE)
