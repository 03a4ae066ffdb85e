"""Frozen copies that can be served: each sample's answer is its own.

Exported as it stands, a test-time adapter bakes the statistics of the batch into the graph, and one request's
answer depends on its neighbours. Here the averages of `AdaptiveBatchNorm` become the running statistics of a plain
inference-mode BatchNorm, under the names of the source model, so that the graph is patched by name.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tta_agent.models.batchnorm import AdaptiveBatchNorm


def served_names(learning: nn.Module) -> dict[str, Tensor]:
    """Tensors of the learning copy under the source model's names."""
    norms = {
        name: module for name, module in learning.named_modules() if isinstance(module, AdaptiveBatchNorm)
    }
    plain = {n: t for n, t in learning.state_dict().items() if n.rpartition(".")[0] not in norms}
    served = {f"{n}.{leaf}": t for n, module in norms.items() for leaf, t in module.served().items()}
    return {**plain, **served}


@torch.no_grad()
def snapshot(source: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `source` in inference mode with `tensors` put in by name.

    Raises:
        KeyError: a name that the source does not have.
    """
    model = copy.deepcopy(source).eval().requires_grad_(False)
    slots = model.state_dict()
    for name, tensor in tensors.items():
        slots[name].copy_(tensor)
    return model
