"""The order of weights in memory: channels last where the model's own code takes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tta_agent.assembly.copy import load_source, make_adaptation
from tta_agent.core import plugins
from tta_agent.models import loader
from tta_agent.settings import env
from tta_agent.telemetry.facade import Telemetry

SHAPE, CLASSES = (3, 16, 16), 10


class Flattened(nn.Module):
    """A net as many are written by hand: `view` on the last feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.input_shape = SHAPE
        self.stem, self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 8 * 8, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        """Feature maps [N, 8, 8, 8]."""
        return nn.functional.max_pool2d(torch.relu(self.norm(self.conv(self.stem(x)))), 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.features(x)
        return self.head(x.view(x.size(0), -1))


class Reshaped(Flattened):
    """The same by `flatten`, which takes any order."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.features(x).flatten(1))


def module_of(name: str) -> nn.Module:
    return loader.load(None, f"{__name__}:{name}", None, device="cpu").module


def test_feature_maps_are_channels_last_where_the_code_takes_them() -> None:
    module = module_of("Reshaped")
    assert module.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert module.features(torch.rand(4, *SHAPE)).is_contiguous(memory_format=torch.channels_last)


def test_a_view_of_a_feature_map_keeps_the_order_it_needs() -> None:
    module = module_of("Flattened")
    assert module.conv.weight.is_contiguous() and module(torch.rand(4, *SHAPE)).shape == (4, CLASSES)


@pytest.mark.parametrize("method", plugins.available("adapters"))
def test_every_adapter_learns_on_a_net_with_a_view(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"MODEL__FACTORY": f"{__name__}:Flattened", "MODEL__DEVICE": "cpu", "ADAPT__METHOD": method}
    for name, value in given.items():
        monkeypatch.setenv(f"TTA_{name}", value)
    settings = env.load()
    source = load_source(settings)
    adaptation = make_adaptation(settings, source, Telemetry.off())
    for seed in range(3):
        x = np.random.default_rng(seed).random((16, *SHAPE), dtype=np.float32)
        assert np.isfinite(adaptation.round(x).logits).all()


class Patches(nn.Module):
    """A net whose only convolution cuts the image into patches."""

    def __init__(self) -> None:
        super().__init__()
        self.input_shape = SHAPE
        self.patches, self.norm, self.head = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.norm(self.patches(x).flatten(2).mean(2)))


def test_a_single_convolution_stays_in_the_order_of_the_inputs() -> None:
    assert module_of("Patches").patches.weight.is_contiguous()
