import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tta_agent.core.errors import ConfigError
from tta_agent.core.types import Array
from tta_agent.samples import dataset, train
from tta_agent.samples.nets import fashion_net

Save = Callable[..., str]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(**arrays: Array) -> str:
        np.savez(tmp_path / "some.npz", allow_pickle=True, **arrays)
        return f"npz:{tmp_path / 'some.npz'}"

    return write


def test_the_shipped_set() -> None:
    images = dataset.load()
    assert images.inputs.shape == (10_000, 1, 28, 28)
    assert images.inputs.dtype == np.uint8
    assert images.labels.dtype == np.int64
    assert np.bincount(images.labels).tolist() == [1000] * 10


def test_the_assets_are_small() -> None:
    assert (dataset.ASSETS / dataset.WEIGHTS).stat().st_size < 1_000_000
    assert (dataset.ASSETS / dataset.SHIPPED).stat().st_size < 5_000_000


def test_the_shipped_weights_are_as_good_as_their_readme_says() -> None:
    text = (dataset.ASSETS / "README.md").read_text(encoding="utf-8")
    told = re.search(r"Accuracy on the 10,000 test images: ([\d.]+) %", text)
    assert told
    assert float(told[1]) >= 91
    model = fashion_net()
    model.load_state_dict(load_file(dataset.ASSETS / dataset.WEIGHTS))
    images = dataset.load()
    first = dataset.LabelledImages(images.inputs[:2000], images.labels[:2000])
    assert 100 * train.accuracy(model, first) == pytest.approx(float(told[1]), abs=1.5)


def test_a_file_of_the_user_s(save: Save) -> None:
    spec = save(
        inputs=np.zeros((3, 2, 5, 5), np.uint8), labels=np.array([2, 0, 1], np.uint8), more=np.zeros(1)
    )
    images = dataset.load(spec)
    assert images.inputs.shape == (3, 2, 5, 5)
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == [2, 0, 1]


def test_unknown_specs_and_missing_files(tmp_path: Path) -> None:
    for spec in ("", "npz:", "images.npz", "csv:images.csv"):
        with pytest.raises(ConfigError, match="expected npz:PATH"):
            dataset.load(spec)
    with pytest.raises(ConfigError, match=r"no data file .*none\.npz: expected an \.npz file with `inputs`"):
        dataset.load(f"npz:{tmp_path / 'none.npz'}")


def test_missing_arrays(save: Save) -> None:
    with pytest.raises(ConfigError, match="holds inputs, y: expected"):
        dataset.load(save(inputs=np.zeros((1, 1, 2, 2), np.uint8), y=np.zeros(1, np.int64)))


@pytest.mark.parametrize(
    ("inputs", "labels", "said"),
    [
        (np.zeros((2, 1, 4, 4), np.float32), np.zeros(2, np.int64), r"`inputs` is float32 \[2, 1, 4, 4\]"),
        (np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int64), r"`inputs` is uint8 \[2, 4, 4\]"),
        (np.zeros((2, 1, 4, 4), np.uint8), np.zeros(2), r"`labels` is float64 \[2\]"),
        (np.zeros((2, 1, 4, 4), np.uint8), np.zeros((2, 10), np.int64), r"`labels` is int64 \[2, 10\]"),
        (np.zeros((2, 1, 4, 4), np.uint8), np.zeros(3, np.int64), "2 inputs and 3 labels"),
        (np.zeros((0, 1, 4, 4), np.uint8), np.zeros(0, np.int64), "0 inputs"),
    ],
)
def test_wrong_shapes_and_types(save: Save, inputs: Array, labels: Array, said: str) -> None:
    with pytest.raises(ConfigError, match=f"{said}.*expected an .npz"):
        dataset.load(save(inputs=inputs, labels=labels))


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off", b"\x80\x04K\x01."])
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot read"):
        dataset.load(f"npz:{path}")


def test_a_single_array_is_no_npz(tmp_path: Path) -> None:
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ConfigError, match=r"expected an \.npz"):
        dataset.load(f"npz:{tmp_path / 'one.npz'}")


def test_pickles_are_not_run(save: Save) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        dataset.load(save(inputs=np.array([{}], object), labels=np.zeros(1, np.int64)))


def test_idx_files_are_read(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8)
    header = b"".join(value.to_bytes(4, "big") for value in (2051, 2, 3, 4))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels.tobytes()))
    header = b"".join(value.to_bytes(4, "big") for value in (2049, 2))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + bytes([7, 9])))
    images = train.read_split(tmp_path, "t10k")
    assert np.array_equal(images.inputs, pixels.reshape(2, 1, 3, 4))
    assert images.labels.tolist() == [7, 9]
    with pytest.raises(ConfigError, match="is missing"):
        train.read_split(tmp_path, "train")


def test_augmented_images_are_crops_and_flips_of_themselves() -> None:
    x = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = train.augment(x, torch.Generator().manual_seed(0))
    assert y.shape == x.shape
    for before, after in zip(x, y, strict=True):
        inner = after[0, 2:6, 2:6]  # what no crop can move out of the image
        crops = before[0].unfold(0, 4, 1).unfold(1, 4, 1).reshape(-1, 4, 4)
        assert any(torch.equal(inner, crop) or torch.equal(inner, crop.flip(1)) for crop in crops)


def test_training_learns_and_writes_assets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.arange(256) % 2
    images = dataset.LabelledImages(
        (labels[:, None, None, None] * np.ones((1, 1, 28, 28)) * 255).astype(np.uint8), labels
    )
    plan = train.TrainingPlan(epochs=2, batch=16, seed=4)
    torch.manual_seed(4)
    model = fashion_net()
    train.train(model, images, plan)
    assert train.write(tmp_path, model, images, plan) == 1
    assert capsys.readouterr().out.count("epoch") == 2
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "Accuracy on the 10,000 test images: 100.00 %" in text
    assert "--epochs 2 --seed 4" in text
    assert dataset.read_npz(tmp_path / dataset.SHIPPED).labels.tolist() == labels.tolist()
    fashion_net().load_state_dict(load_file(tmp_path / dataset.WEIGHTS))
