"""Every installed adapter keeps the contract on BatchNorm, GroupNorm and LayerNorm nets."""

from typing import get_args

import pytest
import torch

from tta_agent import testing
from tta_agent.core import plugins
from tta_agent.core.errors import CannotAdapt, PluginNotFound

NEEDS_BATCHNORM = {"norm", "adamixbn"}


@pytest.mark.parametrize("check", testing.ADAPTER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", get_args(testing.Kind))
@pytest.mark.parametrize("name", plugins.available("adapters"))
def test_adapter_contract(name, kind, check):
    if name in NEEDS_BATCHNORM and kind != "batch":
        with pytest.raises(CannotAdapt, match="use TTA_ADAPT__METHOD"):
            plugins.load("adapters", name)(testing.tiny_net(kind))
        return
    check(plugins.load("adapters", name), testing.tiny_net(kind))


@pytest.mark.parametrize("name", sorted({*plugins.available("adapters")} - {"frozen", "norm"}))
@pytest.mark.parametrize("kind", ["batch"])
def test_what_learns_is_named_with_its_source_value(name, kind):
    model = testing.tiny_net(kind)
    options = {"margin": 1.0, "recovery": 0.0} if name == "sar" else {}  # a random net is sure of nothing
    adapter = plugins.load("adapters", name)(model, **options)
    source = dict(model.named_parameters())
    moved = adapter.moved()
    assert moved
    assert all(torch.equal(value, source[key]) for key, (_, value) in moved.items())
    assert all(torch.equal(now, value) for now, value in moved.values())
    testing.learn(adapter, 5)
    assert any(not torch.equal(now, value) for now, value in adapter.moved().values())


@pytest.mark.parametrize("name", ["norm", "adamixbn", "tent", "eata", "sar", "deyo", "roid"])
def test_a_model_without_normalisation_is_refused(name):
    with pytest.raises(CannotAdapt, match="frozen"):
        plugins.load("adapters", name)(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)))


def test_an_unknown_name_tells_the_nearest():
    with pytest.raises(PluginNotFound, match="did you mean tent"):
        plugins.load("adapters", "tnet")


def test_module_and_class_need_no_registration():
    from tta_adapters.tent import Tent

    assert plugins.load("adapters", "tta_adapters.tent:Tent") is Tent
