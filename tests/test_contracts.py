"""Every installed adapter keeps the contract on BatchNorm, GroupNorm and LayerNorm nets."""

from typing import get_args

import pytest
import torch

from tta_agent import plugins, testing
from tta_agent.errors import CannotAdapt, PluginNotFound

NEEDS_BATCHNORM = {"norm"}


@pytest.mark.parametrize("check", testing.ADAPTER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", get_args(testing.Kind))
@pytest.mark.parametrize("name", plugins.available("adapters"))
def test_adapter_contract(name, kind, check):
    if name in NEEDS_BATCHNORM and kind != "batch":
        with pytest.raises(CannotAdapt, match="use TTA_ADAPT__METHOD"):
            plugins.load("adapters", name)(testing.tiny_net(kind))
        return
    check(plugins.load("adapters", name), testing.tiny_net(kind))


@pytest.mark.parametrize("name", ["norm", "tent"])
def test_a_model_without_normalisation_is_refused(name):
    with pytest.raises(CannotAdapt, match="frozen"):
        plugins.load("adapters", name)(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)))


def test_an_unknown_name_tells_the_nearest():
    with pytest.raises(PluginNotFound, match="did you mean tent"):
        plugins.load("adapters", "tnet")


def test_module_and_class_need_no_registration():
    from tta_adapters.tent import Tent

    assert plugins.load("adapters", "tta_adapters.tent:Tent") is Tent
