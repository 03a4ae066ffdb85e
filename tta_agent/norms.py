"""All there is to know about normalisation layers: finding them, and a BatchNorm that learns the target.

A test-time method normalises with the statistics of the batch that it scores. A served graph answers one
request at a time and needs statistics of its own. `TargetNorm` does the first and estimates the second.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

AFFINE_NORMS = (nn.GroupNorm, nn.LayerNorm)


class TargetNorm(nn.Module):
    """A BatchNorm that answers with batch statistics and averages them for the graph to be served.

    The averages start at the source's statistics, which count as one batch. The first batches therefore weigh
    1/2, 1/3, ... and none less than `momentum`:

        mean <- mean + a (mean_B - mean),  var <- var + a (var_B - var),  a = max(momentum, 1 / (n + 1))

    with `var_B` unbiased, as nn.BatchNorm2d does it. `forward` only remembers the batch's statistics;
    `absorb` moves the averages. So a batch from which nothing is learnt leaves no trace.

    A feature map with one value per channel (one sample, one pixel) has no variance: it is normalised with the
    averages instead, and adds nothing to them.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, layer: _BatchNorm, momentum: float) -> None:
        super().__init__()
        if layer.running_mean is None or layer.running_var is None:
            raise ValueError("a BatchNorm without running statistics has no source statistics to start from")
        self.weight = None if layer.weight is None else nn.Parameter(layer.weight.detach().clone())
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())
        self.eps = layer.eps
        self.momentum = momentum
        self.register_buffer("mean", layer.running_mean.detach().clone())
        self.register_buffer("var", layer.running_var.detach().clone())
        self.register_buffer("count", torch.ones((), dtype=torch.int64))
        self._batch: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, ...] -> the same shape, normalised by the batch itself."""
        single = x.numel() // x.shape[1] < 2
        batch = None
        if torch.is_grad_enabled():  # predict() runs without: it must leave nothing behind
            batch = None if single else (torch.zeros_like(self.mean), torch.zeros_like(self.var))
            self._batch = batch
        if single:
            return F.batch_norm(x, self.mean, self.var, self.weight, self.bias, False, 0.0, self.eps)
        # at momentum 1 the kernel leaves this batch's mean and unbiased variance behind: no second pass for them
        mean, var = batch or (None, None)
        return F.batch_norm(x, mean, var, self.weight, self.bias, True, 1.0, self.eps)

    @torch.no_grad()
    def absorb(self) -> None:
        """Move the averages by the batch that was last forwarded; nothing where there is none."""
        if self._batch is None:
            return
        mean, var = self._batch
        self.count += 1
        share = max(self.momentum, 1.0 / float(self.count))
        self.mean.lerp_(mean, share)
        self.var.lerp_(var, share)
        self._batch = None


def convert(model: nn.Module, momentum: float) -> dict[str, TargetNorm]:
    """Replace every BatchNorm of `model`, in place, by a TargetNorm; returns them by module name."""
    found = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    learning = {name: TargetNorm(m, momentum) for name, m in found.items() if m.running_mean is not None}
    for name, layer in learning.items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer.to(next(found[name].buffers()).device))
    return learning


def affine(model: nn.Module) -> dict[str, nn.Parameter]:
    """Scale and shift of every normalisation layer, by parameter name: what TENT and its kin adapt."""
    return {
        f"{name}.{leaf}": parameter
        for name, module in model.named_modules()
        if isinstance(module, (TargetNorm, _BatchNorm, *AFFINE_NORMS))
        for leaf, parameter in module.named_parameters(recurse=False)
    }


def census(model: nn.Module) -> dict[str, int]:
    """How many normalisation layers of which kind: for messages."""
    kinds = {"BatchNorm": _BatchNorm, "GroupNorm": nn.GroupNorm, "LayerNorm": nn.LayerNorm}
    count = {kind: sum(isinstance(m, cls) for m in model.modules()) for kind, cls in kinds.items()}
    return {kind: n for kind, n in count.items() if n}
