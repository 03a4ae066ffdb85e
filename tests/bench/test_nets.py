"""The nets of the benchmarks: their layers, their weights, and that they can be trained again."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks import train
from tta_agent.bench import nets
from tta_agent.models import batchnorm, loader, onnx_export
from tta_agent.samples import dataset
from tta_agent.samples.dataset import LabelledImages
from tta_agent.samples.train import accuracy

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "benchmarks" / "weights"
SHARED = ROOT / ".." / "shared" / "data"
FACTORIES = {"resnet20": nets.resnet20, "fashion_gn": nets.fashion_gn, "fashion_ln": nets.fashion_ln}
TRAINED = ("fashion_gn", "fashion_ln")


def weights_of(name):
    path = SHARED / "cifar10_resnet20.safetensors" if name == "resnet20" else WEIGHTS / f"{name}.safetensors"
    if not path.is_file() and name == "resnet20":
        pytest.skip(f"{path.name} is in ../shared/data, which is not here")
    return path


def deployed(name):
    return loader.load(None, f"tta_agent.bench.nets:{name}", weights_of(name), device="cpu")


def documented(name):
    """Clean accuracy in percent, from the README beside the weights."""
    row = re.search(
        rf"^\| `{name}.safetensors` .*\| (\d\d\.\d\d) % \|", (WEIGHTS / "README.md").read_text(), re.M
    )
    assert row is not None
    return float(row[1])


def first(images, n=1000):
    return LabelledImages(images.inputs[:n], images.labels[:n])


@pytest.mark.parametrize(
    ("name", "layers"),
    [("resnet20", {"BatchNorm": 19}), ("fashion_gn", {"GroupNorm": 7}), ("fashion_ln", {"LayerNorm": 8})],
)
def test_one_kind_of_normalisation_each(name, layers):
    assert batchnorm.census(FACTORIES[name]()) == layers


@pytest.mark.parametrize("name", TRAINED)
def test_the_trained_nets_are_as_accurate_as_documented(name):
    assert 100 * accuracy(deployed(name).module, first(dataset.load())) >= documented(name) - 2


@pytest.mark.parametrize("name", TRAINED)
def test_trained_weights_are_small_and_become_float32_on_loading(name):
    assert weights_of(name).stat().st_size <= 1_500_000
    assert {t.dtype for t in load_file(weights_of(name)).values()} == {torch.float16}
    assert {p.dtype for p in deployed(name).module.parameters()} == {torch.float32}


def test_the_resnet_takes_the_public_weights_and_is_as_accurate_as_they_are():
    model = nets.resnet20()
    model.load_state_dict(load_file(weights_of("resnet20")), strict=True)
    assert 100 * accuracy(model, first(dataset.load(f"npz:{SHARED / 'cifar10_test.npz'}"))) >= 88.45 - 2


@pytest.mark.parametrize("name", FACTORIES)
def test_candidates_are_patched_into_the_graph_by_name(name):
    torch.manual_seed(0)
    model = FACTORIES[name]()
    assert onnx_export.GraphTemplate(model, model.input_shape).patchable


@pytest.mark.parametrize("name", FACTORIES)
def test_the_last_module_takes_the_penultimate_features(name):
    model = FACTORIES[name]().eval()
    last = list(model.children())[-1]
    seen = []
    last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits = model(torch.rand(3, *model.input_shape))
    assert isinstance(last, torch.nn.Linear)
    assert torch.equal(last(seen[0]), logits)
    assert seen[0].shape == (3, last.in_features)


@pytest.mark.parametrize("name", FACTORIES)
def test_only_batch_norm_lets_the_neighbours_matter_while_training(name):
    torch.manual_seed(0)
    model = FACTORIES[name]().train()
    x = torch.rand(4, *model.input_shape)
    alone, among = model(x[:1]), model(x)[:1]
    assert torch.allclose(alone, among, atol=1e-5) == (name != "resnet20")


def test_the_rate_rises_then_falls_to_nothing():
    plan = train.Plan()
    rates = [train.rate(plan, done / 100) for done in range(101)]
    top = rates.index(max(rates))
    assert rates[0] == 0
    assert rates[top] == plan.peak_lr
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(0)


def write_idx(path, array):
    magic = {1: 2049, 3: 2051}[array.ndim]
    header = np.array([magic, *array.shape], ">i4").tobytes()
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes(), 1))


def trained_on(folder, images, out, monkeypatch, *options):
    for split, some in (("train", slice(0, 512)), ("t10k", slice(512, 640))):
        write_idx(folder / f"{split}-images-idx3-ubyte.gz", images.inputs[some, 0])
        write_idx(folder / f"{split}-labels-idx1-ubyte.gz", images.labels[some])
    monkeypatch.setattr("sys.argv", ["train.py", "gn", "--data", str(folder), "--out", str(out), *options])
    train.main()
    return load_file(out / "fashion_gn.safetensors")


def test_the_same_seed_trains_the_same_weights(tmp_path, monkeypatch, capsys):
    images = dataset.load()
    runs = [
        trained_on(tmp_path, images, tmp_path / out, monkeypatch, "--epochs", "1", "--seed", seed)
        for out, seed in (("a", "0"), ("b", "0"), ("c", "1"))
    ]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not torch.equal(runs[0]["conv1.weight"], runs[2]["conv1.weight"])
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["fashion_gn.safetensors"]
    assert "mean of the 15" in capsys.readouterr().out


def test_a_spent_time_budget_ends_the_training_with_weights(tmp_path, monkeypatch):
    started = trained_on(tmp_path, dataset.load(), tmp_path / "out", monkeypatch, "--minutes", "1e-9")
    torch.manual_seed(0)
    fresh = nets.fashion_gn().state_dict()
    assert all(torch.equal(started[name], fresh[name].half()) for name in fresh)
