"""Copies of a module with other values, by whose answers the map from its tensors to a graph is proved."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import nn


def portions(module: nn.Module, most: int | None) -> list[set[str]]:
    """Names of the float tensors in parts of at most so many bytes, or all in one; without those that are larger."""
    parts, room = [set[str]()], most
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point() or (most is not None and tensor.nbytes > most):
            continue
        if room is not None and most is not None:
            if tensor.nbytes > room:
                parts.append(set())
                room = most
            room -= tensor.nbytes
        parts[-1].add(name)
    return parts


@torch.no_grad()
def perturbed(module: nn.Module, names: Collection[str]) -> nn.Module:
    """A copy with other values of these tensors; it shares the others."""
    held = dict([*module.named_parameters(), *module.named_buffers()])
    module = copy.deepcopy(module, {id(tensor): tensor for name, tensor in held.items() if name not in names})
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if name in names:
            tensor.mul_(1 + 0.1 * torch.rand(tensor.shape, generator=generator))
    return module
