"""Tiny nets and batches, and steps, states and comparisons of adapters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from tta_agent.core.protocols import Adapter
from tta_agent.core.types import Selection

Kind = Literal["batch", "group", "layer"]
CLASSES = 4


class _ChannelsLast(nn.Module):
    """LayerNorm over the channels of a map, as ConvNeXt does it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)  # type: ignore[no-any-return]


def tiny_net(kind: Kind, *, seed: int = 0) -> nn.Module:
    """A convolutional net of a few hundred weights, [B, 1, 8, 8] -> [B, 4], inference mode."""
    torch.manual_seed(seed)
    norm: dict[str, Callable[[int], nn.Module]] = {
        "batch": nn.BatchNorm2d,
        "group": lambda channels: nn.GroupNorm(2, channels),
        "layer": _ChannelsLast,
    }
    make = norm[kind]
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), make(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, stride=2, bias=False), make(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES),
    )  # fmt: skip
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(8) * 0.1
            module.running_var = torch.rand(8) + 0.5
    return net.eval()


def batch(n: int = 16, *, seed: int = 1, shift: float = 1.0) -> Tensor:
    """[n, 1, 8, 8], moved away from zero mean by `shift`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 8, 8, generator=generator) + shift


def everyone(x: Tensor) -> Selection:
    """All samples teach."""
    return Selection(torch.arange(len(x)), torch.ones(len(x)))


def nobody(x: Tensor) -> Selection:
    """None does."""
    return Selection(torch.arange(0), torch.ones(0), {"test": len(x)})


def learn(adapter: Adapter, steps: int = 3, *, seed: int = 1) -> None:
    """A few rounds on different batches."""
    for i in range(steps):
        x = batch(seed=seed + i)
        adapter.step(x, adapter.forward(x), everyone(x))


def fingerprint(adapter: Adapter) -> list[Tensor]:
    """Every tensor of its state, copied."""
    return list(tensors_of(copy.deepcopy(adapter.state_dict())))


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Bit for bit."""
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def tensors_of(value: object) -> list[Tensor]:
    """All tensors in nested lists and mappings."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for part in value.values() for t in tensors_of(part)]
    if isinstance(value, list | tuple):
        return [t for part in value for t in tensors_of(part)]
    return []
