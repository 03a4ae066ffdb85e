"""Preparations of inputs, and the check of labelled images by what the model names rightly."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tta_agent.core.errors import ConfigError
from tta_agent.models.onnx_export import answers
from tta_agent.models.preprocessing import COMMON, Preparation, check_labelled, ways
from tta_agent.samples import dataset
from tta_agent.samples.nets import fashion_net

IMAGENET = COMMON["ImageNet"]


class Colour(nn.Module):
    """A real net behind the preparation of ImageNet: its first channel, as that preparation left it, counts."""

    def __init__(self) -> None:
        super().__init__()
        self.net = fashion_net()
        weights = "tta_agent/samples/assets/fashion_net.safetensors"
        from safetensors.torch import load_file

        self.net.load_state_dict(load_file(weights))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        grey = x[:, :1] * IMAGENET[1][0] + IMAGENET[0][0]
        return self.net(torch.where(grey < 0, 2.0, grey))  # what was prepared otherwise is out of range


def labelled(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    data = dataset.load()
    pixels = np.asarray(data.inputs[:n], np.float32) / 255
    return np.repeat(pixels, 3, 1), np.asarray(data.labels[:n], np.int64)


def asked(x: np.ndarray, labels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    check_labelled(functools.partial(answers, Colour()), x, labels, mean, std, setting="--anchor data.npz")


def test_images_that_are_prepared_as_the_model_takes_them_pass() -> None:
    pixels, labels = labelled()
    asked(Preparation("mean_std", *IMAGENET).of_batch(pixels), labels, *IMAGENET)


@pytest.mark.parametrize("scale", [1, 255])
def test_a_missing_mean_is_an_error_that_names_it(scale: int) -> None:
    pixels, labels = labelled()
    with pytest.raises(ConfigError) as caught:
        asked(pixels * np.float32(scale), labels, (0.0,), (1.0,))
    told = str(caught.value)
    assert "TTA_MODEL__MEAN=[0.485, 0.456, 0.406] TTA_MODEL__STD=[0.229, 0.224, 0.225]" in told
    with_it, without = (int(n) for n in reversed(re.findall(r"(\d+)%", told)))
    assert with_it > 85 and without < 60


def test_a_model_that_knows_nothing_passes() -> None:
    pixels, _ = labelled()
    asked(pixels, np.random.default_rng(0).integers(0, 10, len(pixels)), (0.0,), (1.0,))


def test_each_way_by_its_formula_and_none_twice() -> None:
    x = np.float32([[[51.0]], [[102.0]]])
    found = {name: prepare(x).ravel().tolist() for name, prepare in ways((0.1, 0.2), (0.5, 0.5)).items()}
    expected = {
        "as_is": [51.0, 102.0],
        "div255": [0.2, 0.4],
        "div255_mean_std": [0.2, 0.4],
        "mean_std": [101.8, 203.6],
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6)
    assert list(ways((0.0,), (1.0,))) == ["as_is", "div255"]
