"""Models by timm name and import path, and what is said when they do not fit."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from tta_agent import models
from tta_agent.errors import ConfigError

TINY = "tests.worlds:tiny_batch_net"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet10t.safetensors"
    save_file(timm.create_model("resnet10t", num_classes=7).state_dict(), path)
    return path


def test_a_timm_name_with_local_weights(weights):
    source = models.load("resnet10t", None, weights, classes=7, device="cpu")
    assert (source.classes, source.shape, source.device.type) == (7, (3, 176, 176), "cpu")
    assert not source.module.training
    assert not any(p.requires_grad for p in source.module.parameters())


def test_a_torch_file_and_an_import_path(tmp_path):
    state = {k: v + 1 for k, v in models.load(None, TINY, None, shape=(1, 8, 8)).module.state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    source = models.load(None, TINY, tmp_path / "w.pt", shape=(1, 8, 8))
    assert source.classes == 4
    assert torch.equal(source.module.state_dict()["0.weight"], state["0.weight"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "TTA_MODEL__NAME"),
        ({"name": "resnet18", "factory": TINY}, "one of the two"),
        ({"name": "resnet81"}, "did you mean resnet"),
        ({"name": "resnet18"}, "needs TTA_MODEL__WEIGHTS"),
        ({"factory": "tests.worlds:missing"}, "cannot import 'tests.worlds:missing'"),
        ({"factory": "tests.worlds:clean_environ"}, "gave a dict, expected a torch.nn.Module"),
        ({"factory": TINY}, "TTA_MODEL__INPUT_SHAPE is needed"),
        ({"factory": TINY, "shape": (3, 8, 8)}, "does not take samples of shape [3, 8, 8]"),
        ({"factory": TINY, "weights": "/nowhere/w.pt"}, "no such file"),
        (
            {"factory": TINY, "shape": (1, 8, 8), "device": "cuda:77"},
            "CUDA devices are visible; use auto or cpu",
        ),
    ],
)
def test_what_does_not_fit_is_said(arguments, message):
    from pathlib import Path

    if "weights" in arguments:
        arguments = {**arguments, "weights": Path(arguments["weights"])}
    with pytest.raises(ConfigError) as refused:
        models.load(**{"name": None, "factory": None, "weights": None, **arguments})
    assert message in str(refused.value)


def test_weights_of_another_model_are_refused(weights):
    with pytest.raises(ConfigError, match="does not fit the model"):
        models.load(None, TINY, weights, shape=(1, 8, 8))
    with pytest.raises(ConfigError, match="does not fit the model"):
        models.load("resnet10t", None, weights, classes=9)


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"not weights")
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        models.load(None, TINY, tmp_path / "w.safetensors", shape=(1, 8, 8))
