"""Distances of a candidate's tensors from the source's, in a few numbers that mean the same for every model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

TINY = 1e-5


@torch.no_grad()
def moved(source: nn.Module, candidate: nn.Module) -> dict[str, float]:
    """Distances of two modules' tensors, each 0 where nothing moved.

    Returns:
        `means`: squared shift of BatchNorm means in units of the source's variance, averaged over channels, then
        layers; `variances`: the log ratio of variances alike, signed; `spread`: its square; `weights`: relative
        L2 distance of all other tensors that differ at all, 0 where none does.
    """
    before, after = _floats(source), _floats(candidate)
    layers = [name.removesuffix("running_mean") for name in before if name.endswith("running_mean")]
    found = [_layer(before, after, name) for name in layers]
    mean, ratio, square = (
        (sum(column) / len(found) for column in zip(*found, strict=True)) if found else (0.0,) * 3
    )
    return {"means": mean, "variances": ratio, "spread": square, "weights": _weights(before, after)}


def _floats(module: nn.Module) -> dict[str, Tensor]:
    return {n: t.detach().float().cpu() for n, t in module.state_dict().items() if t.is_floating_point()}


def _layer(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], name: str
) -> tuple[float, float, float]:
    mean, var = f"{name}running_mean", f"{name}running_var"
    shift = (after[mean] - before[mean]) ** 2 / (before[var] + TINY)
    ratio = ((after[var] + TINY) / (before[var] + TINY)).log()
    return float(shift.mean()), float(ratio.mean()), float((ratio**2).mean())


def _weights(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    plain = [n for n in before if "running_" not in n and not torch.equal(before[n], after[n])]
    if not plain:
        return 0.0
    apart = sum(float(((after[n] - before[n]) ** 2).sum()) for n in plain)
    size = sum(float((before[n] ** 2).sum()) for n in plain)
    return float((apart / max(size, 1e-12)) ** 0.5)
