"""Normalisation layers: finding them, and putting the learning ones in."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from tta_agent.models.absorb import absorb as absorb
from tta_agent.models.absorb import unseen as unseen
from tta_agent.models.adaptive_norm import AdaptiveBatchNorm as AdaptiveBatchNorm
from tta_agent.models.site_layers import ChannelAffine
from tta_agent.models.stats_config import StatsConfig as StatsConfig

AFFINE_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, _InstanceNorm, ChannelAffine)

Make = Callable[[_BatchNorm], AdaptiveBatchNorm]


def convert(model: nn.Module, make: Make) -> dict[str, AdaptiveBatchNorm]:
    """Replace every BatchNorm of `model`, in place, by an AdaptiveBatchNorm; the new layers by module name."""
    found = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    learning = {name: make(m) for name, m in found.items() if m.running_mean is not None}
    for name, layer in learning.items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer)
    return learning


def affine(model: nn.Module) -> dict[str, nn.Parameter]:
    """Scale and shift of every normalisation layer, by parameter name: what TENT and its kin adapt."""
    return {
        f"{name}.{leaf}": parameter
        for name, module in model.named_modules()
        if isinstance(module, (AdaptiveBatchNorm, _BatchNorm, *AFFINE_NORMS))
        for leaf, parameter in module.named_parameters(recurse=False)
    }


def census(model: nn.Module) -> dict[str, int]:
    """Number of normalisation layers by kind, for messages."""
    kinds = {
        "BatchNorm": _BatchNorm, "GroupNorm": nn.GroupNorm, "LayerNorm": nn.LayerNorm, "RMSNorm": nn.RMSNorm,
        "InstanceNorm": _InstanceNorm, "scale and shift": ChannelAffine,
    }  # fmt: skip
    count = {kind: sum(isinstance(m, cls) for m in model.modules()) for kind, cls in kinds.items()}
    return {kind: n for kind, n in count.items() if n}
