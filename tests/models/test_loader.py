"""Models by timm name, import path and served file, and what is said when they do not fit."""

from pathlib import Path

import onnx
import pytest
import timm
import torch
from safetensors.torch import save_file

from tta_agent import testing
from tta_agent.assembly import build
from tta_agent.core.errors import ConfigError
from tta_agent.models import loader, onnx_export
from tta_agent.settings import env

TINY = "tests.worlds:tiny_batch_net"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet10t.safetensors"
    save_file(timm.create_model("resnet10t", num_classes=7).state_dict(), path)
    return path


def test_a_timm_name_with_local_weights(weights):
    source = loader.load("resnet10t", None, weights, classes=7, device="cpu")
    assert (source.classes, source.shape, source.device.type) == (7, (3, 176, 176), "cpu")
    assert not source.module.training
    assert not any(p.requires_grad for p in source.module.parameters())


def test_a_torch_file_and_an_import_path(tmp_path):
    state = {k: v + 1 for k, v in loader.load(None, TINY, None, shape=(1, 8, 8)).module.state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    source = loader.load(None, TINY, tmp_path / "w.pt", shape=(1, 8, 8))
    assert source.classes == 4
    assert torch.equal(source.module.state_dict()["0.weight"], state["0.weight"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    ],
    ids=["state_dict", "model", "model of DataParallel", "DataParallel"],
)
def test_a_training_checkpoint_is_unwrapped(wrap, tmp_path):
    state = testing.tiny_net("batch", seed=5).state_dict()
    torch.save(wrap(state), tmp_path / "w.pt")
    loaded = loader.load(None, TINY, tmp_path / "w.pt", shape=(1, 8, 8)).module.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_a_model_whose_own_names_begin_with_module_keeps_them(tmp_path):
    state = Outer(testing.tiny_net("batch", seed=5)).state_dict()
    save_file({name: tensor for name, tensor in state.items()}, tmp_path / "w.safetensors")
    loaded = loader.load(
        None, "tests.models.test_loader:wrapped", tmp_path / "w.safetensors", shape=(1, 8, 8)
    )
    assert loaded.module.state_dict().keys() == state.keys()


class Outer(torch.nn.Module):
    """A module that calls its part `module`, and is no wrapper."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return 2 * self.module(x)


def wrapped():
    """For TTA_MODEL__FACTORY."""
    return Outer(testing.tiny_net("batch"))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "model.onnx"
    onnx.save(onnx_export.export(testing.tiny_net("batch"), testing.batch(2)), path)
    return path


def test_the_served_file_alone(served, monkeypatch):
    for name in env.env_names():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TTA_MODEL__ONNX", str(served))
    settings = env.load(model={"device": "cpu"})
    source = build.load_source(settings)
    assert (source.classes, source.shape, source.mean, source.std) == (4, (1, 8, 8), (0.0,), (1.0,))
    assert not any(p.requires_grad for p in source.module.parameters())
    assert torch.allclose(
        source.module(testing.batch()), testing.tiny_net("batch")(testing.batch()), atol=1e-6
    )
    assert str(served) in build.describe(settings, source)


def test_how_pixels_became_inputs(weights, served):
    known = loader.load("resnet10t", None, weights, classes=7, device="cpu")
    assert known.mean == timm.create_model("resnet10t").default_cfg["mean"]
    assert known.std == timm.create_model("resnet10t").default_cfg["std"]
    said = loader.load("resnet10t", None, weights, classes=7, device="cpu", mean=(0.5,), std=(0.1, 0.2, 0.3))
    assert (said.mean, said.std) == ((0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
    unknown = loader.load(None, TINY, None, shape=(1, 8, 8))
    assert (unknown.mean, unknown.std) == ((0.0,), (1.0,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "TTA_MODEL__NAME"),
        ({"name": "resnet18", "factory": TINY}, "one of the three"),
        ({"factory": TINY, "onnx": "/nowhere/m.onnx"}, "one of the three"),
        ({"onnx": "/nowhere/m.onnx"}, "no such file"),
        ({"onnx": "/nowhere/m.onnx", "weights": "/nowhere/w.pt"}, "the ONNX file holds its weights"),
        (
            {"factory": TINY, "shape": (1, 8, 8), "mean": (0.1, 0.2)},
            "TTA_MODEL__MEAN=[0.1, 0.2]: expected 1 number",
        ),
        ({"factory": TINY, "shape": (1, 8, 8), "std": (0.0,)}, "expected numbers above 0"),
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
    paths = {key: Path(arguments[key]) for key in ("weights", "onnx") if key in arguments}
    with pytest.raises(ConfigError) as refused:
        loader.load(**{"name": None, "factory": None, "weights": None, **arguments, **paths})
    assert message in str(refused.value)


def test_weights_of_another_model_are_refused(weights):
    with pytest.raises(ConfigError, match="does not fit the model"):
        loader.load(None, TINY, weights, shape=(1, 8, 8))
    with pytest.raises(ConfigError, match="does not fit the model"):
        loader.load("resnet10t", None, weights, classes=9)


def test_a_head_of_another_size_names_the_setting(weights, tmp_path):
    for classes in (None, 9):
        with pytest.raises(ConfigError, match="TTA_MODEL__CLASSES=7 with TTA_MODEL__NAME") as refused:
            loader.load("resnet10t", None, weights, classes=classes)
        told = str(refused.value)
        assert f"the weights are of 7 classes, the model has {classes or 1000}" in told
        assert "fc." in told and len(told.splitlines()) <= 3
    net = testing.tiny_net("batch")
    net[-1] = torch.nn.Linear(8, 6)
    save_file(net.state_dict(), tmp_path / "six.safetensors")
    with pytest.raises(ConfigError, match="a factory that makes 6"):
        loader.load(None, TINY, tmp_path / "six.safetensors", shape=(1, 8, 8))


def test_weights_of_another_width_are_no_matter_of_classes(tmp_path):
    state = testing.tiny_net("batch").state_dict()
    state["0.weight"] = torch.zeros(12, 1, 5, 5)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(
        ConfigError, match=r"0.weight has shape \[12, 1, 5, 5\] there.*1 of \d+ tensors"
    ) as refused:
        loader.load(None, TINY, tmp_path / "w.safetensors", shape=(1, 8, 8))
    assert "TTA_MODEL__CLASSES" not in str(refused.value)


def failing():
    """For TTA_MODEL__FACTORY."""
    raise OSError("no weights on this machine\nand more")


def test_a_factory_that_fails_is_named():
    with pytest.raises(ConfigError) as refused:
        loader.load(None, "tests.models.test_loader:failing", None)
    assert str(refused.value) == (
        "TTA_MODEL__FACTORY=tests.models.test_loader:failing fails: OSError: no weights on this machine"
    )
    with pytest.raises(ConfigError, match=r"TTA_MODEL__FACTORY=tests.worlds:images fails: TypeError"):
        loader.load(None, "tests.worlds:images", None)


def test_a_file_with_another_number_of_classes_than_was_said_is_refused(served):
    with pytest.raises(ConfigError, match=r"TTA_MODEL__CLASSES=9: .* answers with 4 classes"):
        loader.load(None, None, None, onnx=served, classes=9)


@pytest.mark.parametrize("content", [{"weights": {"a": torch.ones(1)}}, [torch.ones(1)], {"epoch": 3}])
def test_a_checkpoint_without_a_state_dict_says_what_it_holds(content, tmp_path):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"holds (no dict|weights|epoch); expected a state dict"):
        loader.load(None, TINY, tmp_path / "w.pt", shape=(1, 8, 8))


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"not weights")
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        loader.load(None, TINY, tmp_path / "w.safetensors", shape=(1, 8, 8))
