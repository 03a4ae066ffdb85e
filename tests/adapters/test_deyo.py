"""DeYO's loss against the formula, and the layer rule on the nets that it was and was not written for."""

import numpy as np
import pytest
import torch
from torch import nn

from tta_adapters.deyo import Deyo
from tta_adapters.layers import outside
from tta_agent.core.errors import CannotAdapt
from tta_agent.core.types import Selection
from tta_agent.models.batchnorm import affine
from tta_agent.testing import batch, everyone, learn, nobody, tiny_net


def entropies(logits):
    p = np.exp(logits.detach().double().numpy())
    p /= p.sum(1, keepdims=True)
    return -(p * np.log(p)).sum(1)


CHOSEN = Selection(torch.tensor([0, 3, 7]), torch.tensor([2.0, 0.5, 3.0]))


@pytest.mark.parametrize(("divide", "by"), [("selected", 3), ("batch", 16)])
def test_the_loss_is_the_weighted_entropy_over_survivors_or_batch(divide, by):
    adapter, x = Deyo(tiny_net("batch"), divide=divide), batch()
    logits = adapter.forward(x)
    expected = (entropies(logits)[[0, 3, 7]] * [2.0, 0.5, 3.0]).sum() / by
    report = adapter.step(x, logits, CHOSEN)
    assert abs(report.loss - expected) < 1e-6
    assert report.used == 3


def test_the_papers_filters_are_its_own_selector():
    assert Deyo.selectors == {"deyo": {}}


def test_without_a_survivor_not_even_momentum_moves():
    adapter = Deyo(tiny_net("batch"), optimizer="sgd")
    learn(adapter)
    before = {name: parameter.detach().clone() for name, parameter in adapter.parameters.items()}
    momentum = [s["momentum_buffer"].clone() for s in adapter.optimizer.state.values()]
    adapter.step(batch(), adapter.forward(batch()), nobody(batch()))
    assert all(torch.equal(before[name], p) for name, p in adapter.parameters.items())
    after = [s["momentum_buffer"] for s in adapter.optimizer.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(momentum, after, strict=True))


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="'selected' nor 'batch'"):
        Deyo(tiny_net("batch"), divide="all")
    with pytest.raises(ValueError, match="'last', 'literal', 'none'"):
        Deyo(tiny_net("batch"), layers="first")
    with pytest.raises(CannotAdapt, match="adapter 'deyo'"):
        Deyo(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)))


class Part(nn.Module):
    """A stage or block: weights and two normalisation layers."""

    def __init__(self, width, norm):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1)
        self.norm1, self.norm2 = norm(width), norm(width)


def staged(names, widths, norm=nn.BatchNorm2d, last=None):
    """A net of `names`, dotted ones nested, with `last` after them."""
    net = nn.Module()
    for name, width in zip(names, widths, strict=True):
        parent, _, leaf = name.rpartition(".")
        if parent and not hasattr(net, parent):
            net.add_module(parent, nn.Module())
        (net.get_submodule(parent) if parent else net).add_module(leaf, Part(width, norm))
    if last:
        net.add_module(last, norm(8))
    net.add_module("head", nn.Linear(8, 4))
    return net


def learns(rule, net):
    return list(dict.fromkeys(name.rpartition(".")[0] for name in outside(rule)(net)))


def both(*names):
    return [f"{name}.norm{i}" for name in names for i in (1, 2)]


RESNET = staged([f"layer{i}" for i in (1, 2, 3, 4)], (8, 16, 32, 64))
WIDE = staged([f"block{i}" for i in (1, 2, 3)], (8, 16, 32), last="bn1")
CONVNEXT = staged([f"stages.{i}" for i in range(4)], (8, 16, 32, 64), last="norm")
VIT = staged([f"blocks.{i}" for i in range(12)], (8,) * 12, norm=lambda n: nn.GroupNorm(1, n), last="norm")
VISION = staged([f"layers.encoder_layer_{i}" for i in range(12)], (8,) * 12, last="ln")


@pytest.mark.parametrize(
    ("net", "kept"),
    [
        (RESNET, both("layer1", "layer2", "layer3")),
        (WIDE, both("block1", "block2")),
        (CONVNEXT, both(*[f"stages.{i}" for i in range(3)])),
        (VIT, both(*[f"blocks.{i}" for i in range(9)])),
        (VISION, both(*[f"layers.encoder_layer_{i}" for i in range(9)])),
    ],
    ids=["resnet", "wide", "convnext", "vit", "torchvision vit"],
)
def test_the_last_stage_or_three_blocks_and_what_follows_stay(net, kept):
    assert learns("last", net) == kept


def test_wrapping_a_model_changes_nothing():
    assert learns("last", nn.Sequential(nn.Identity(), VIT)) == [f"1.{name}" for name in learns("last", VIT)]


def test_the_literal_rule_goes_by_name_only():
    assert learns("literal", RESNET) == learns("last", RESNET)
    assert learns("literal", VIT) == learns("last", VIT)
    assert learns("literal", WIDE) == learns("none", WIDE)  # as in the original: nothing found
    assert "model.norm" in learns("literal", nn.ModuleDict({"model": VIT}))


@pytest.mark.parametrize("kind", ["batch", "group", "layer"])
def test_a_net_without_stages_learns_everywhere(kind):
    assert outside("last")(tiny_net(kind)).keys() == affine(tiny_net(kind)).keys()


def test_wrapped_normalisation_is_no_stage():
    widths = (4, 8, 16, 32)
    wrapped = nn.ModuleDict({f"norm{i}": nn.Sequential(nn.LayerNorm(n)) for i, n in enumerate(widths)})
    assert len(learns("last", wrapped)) == 4


def test_a_rule_that_leaves_nothing_is_not_followed(caplog):
    small = staged([f"blocks.{i}" for i in range(3)], (8,) * 3, last="norm")
    assert len(learns("last", small)) == 7
    assert "would leave out every normalisation layer" in caplog.text


def test_the_layers_left_out_do_not_move():
    model = nn.Sequential()
    for i, width in ((1, 4), (2, 8)):
        conv = nn.Conv2d(1 if i == 1 else 4, width, 3)
        model.add_module(f"layer{i}", nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU()))
    model.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)))
    adapter = Deyo(model.eval())
    x = batch()
    adapter.step(x, adapter.forward(x), everyone(x))
    served = adapter.servable()
    assert not torch.equal(served.layer1[1].weight, model.layer1[1].weight)
    assert torch.equal(served.layer2[1].weight, model.layer2[1].weight)
    assert not torch.equal(served.layer2[1].running_mean, model.layer2[1].running_mean)
    assert adapter.moved().keys() == {"layer1.1.weight", "layer1.1.bias"}
