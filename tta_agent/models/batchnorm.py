"""Normalisation layers: finding them, and a BatchNorm that learns the statistics of the target.

A test-time method normalises with the statistics of the batch that it scores. A served graph answers one
request at a time and needs statistics of its own. `AdaptiveBatchNorm` does the first and estimates the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tta_agent.models.site_layers import ChannelAffine
from tta_agent.models.stats_config import StatsConfig as StatsConfig
from tta_agent.scoring.sample_scores import all_finite

AFFINE_NORMS = (nn.GroupNorm, nn.LayerNorm, ChannelAffine)
AFTER = ("drop", "act")  # what timm's BatchNormAct2d does after normalising, in this order
TINY = 1e-5  # keeps ratios of variances finite where a channel is dead
QUIET = 0.2  # share of the newest batch in the estimate of how far batches lie apart


class AdaptiveBatchNorm(nn.Module):
    """BatchNorm that answers with batch statistics and averages them for the graph to be served.

    The averages start at the source's statistics, which count as one batch:

        var  <- var + a (var_B - var) + a (1 - a) (mean_B - mean)^2
        mean <- mean + a (mean_B - mean),  a = max(momentum, 1 / (n + 1), a_change),  n <- 1 / a

    with `var_B` unbiased, as nn.BatchNorm2d does it: quick at first, quiet later. The last term is the variance
    between batches, without which a stream of one class at a time would look narrower than it is. What a change
    of domain is, the batches say themselves. With the distance of two sets of statistics, averaged over the channels,

        d(B, A) = (mean_B - mean_A)^2 / var_A + ln(var_B / var_A)^2 / 2

    two batches of one domain lie r = d(B, B_before) / 2 apart from its truth. A batch for which
    q = d(B, averages) / (r (1 + 1/n)) exceeds `change` gets a_change = 1 - 1/q, the share under which the
    averages would lie as far from the batch as batches of one domain do.

    `forward` only remembers the batch's statistics; `absorb` moves the averages. So a batch from which nothing
    is learnt leaves no trace. A feature map with one value per channel (one sample, one pixel) has no variance:
    it is normalised with the averages instead, and adds nothing to them.
    """

    mean: Tensor
    var: Tensor
    count: Tensor
    apart: Tensor
    before: Tensor
    batches: Tensor
    kept: Tensor
    source_mean: Tensor
    source_var: Tensor

    def __init__(self, layer: _BatchNorm, estimate: StatsConfig) -> None:
        super().__init__()
        if layer.running_mean is None or layer.running_var is None:
            raise ValueError("a BatchNorm without running statistics has no source statistics to start from")
        self.weight = None if layer.weight is None else nn.Parameter(layer.weight.detach().clone())
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())
        self.eps = layer.eps
        self.estimate = estimate
        self.after = [
            getattr(layer, part) for part in AFTER if isinstance(getattr(layer, part, None), nn.Module)
        ]
        mean, var = layer.running_mean.detach(), layer.running_var.detach()
        self.register_buffer("mean", mean.clone())
        self.register_buffer("var", var.clone())
        self.register_buffer("source_mean", mean.clone(), persistent=False)
        self.register_buffer("source_var", var.clone(), persistent=False)
        # how many batches the averages are worth
        self.register_buffer("count", torch.ones((), device=mean.device))
        self.register_buffer("apart", torch.zeros((), device=mean.device))  # r, from the second batch on
        self.register_buffer("before", torch.zeros(2, *mean.shape, device=mean.device))  # the batch before
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64, device=mean.device))  # absorbed
        # share of the source in what is served
        self.register_buffer("kept", torch.zeros((), device=mean.device))
        self._batch: tuple[Tensor, Tensor] | None = None
        self._kept = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, channels, ...] by the batch itself (mixed with the anchor)."""
        y = self.normalise(x)
        for part in self.after:
            y = part(y)
        return y

    def normalise(self, x: Tensor) -> Tensor:
        """Normalise without what comes after; on a learning pass the batch is remembered."""
        single = x.numel() // x.shape[1] < 2
        batch = None
        if torch.is_grad_enabled():  # predict() runs without: it must leave nothing behind
            batch = None if single else (torch.zeros_like(self.mean), torch.zeros_like(self.var))
            self._batch = batch
        if single:
            return F.batch_norm(x, self.mean, self.var, self.weight, self.bias, False, 0.0, self.eps)
        if self.estimate.prior:
            return self._mixed(x, *(batch or (torch.zeros_like(self.mean), torch.zeros_like(self.var))))
        # at momentum 1 the kernel leaves this batch's mean and unbiased variance behind: no second pass for them
        mean, var = batch or (None, None)
        return F.batch_norm(x, mean, var, self.weight, self.bias, True, 1.0, self.eps)

    def _mixed(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """As if by (prior anchor + B batch) / (prior + B), with gradients through the batch's statistics."""
        plain = F.batch_norm(x, mean, var, None, None, True, 1.0, self.eps)
        kept = self.estimate.prior / (self.estimate.prior + len(x))
        if torch.is_grad_enabled():
            self._kept = kept
        mean_a, var_a = self.anchor()
        values = x.numel() // x.shape[1]
        biased = var * ((values - 1) / values)  # the kernel divided by this one
        return self.rescale(plain, mean, biased, mean.lerp(mean_a, kept), var.lerp(var_a, kept))

    def anchor(self) -> tuple[Tensor, Tensor]:
        """Mean and variance [channels] that batches are mixed with."""
        if self.estimate.anchor == "average":
            return self.mean.clone(), self.var.clone()
        return self.source_mean, self.source_var

    def rescale(self, plain: Tensor, mean: Tensor, var: Tensor, mean_to: Tensor, var_to: Tensor) -> Tensor:
        """Renormalise from (mean, var) to (mean_to, var_to), with scale and shift."""
        scale = torch.sqrt((var + self.eps) / (var_to + self.eps))
        shift = (mean - mean_to) / torch.sqrt(var_to + self.eps)
        weight = scale if self.weight is None else scale * self.weight
        bias = shift if self.weight is None else shift * self.weight
        bias = bias if self.bias is None else bias + self.bias
        shape = (1, -1, *[1] * (plain.dim() - 2))
        return plain * weight.view(shape) + bias.view(shape)

    def absorb(self) -> bool:
        """Move the averages by the batch that was last forwarded, where there is one and they stay finite."""
        return absorb([self])

    @torch.no_grad()
    def averages(self) -> dict[str, Tensor]:
        """Buffers after the batch that was last forwarded, by name; none where there is none."""
        if self._batch is None:
            return {}
        mean, var = self._batch
        count = float(self.count)
        known, change = self._change(mean, var, count)
        share = max(self.estimate.momentum, 1.0 / (count + 1.0), change)
        between = (mean - self.mean).square_().mul_(share * (1 - share))
        return {
            "mean": self.mean.lerp(mean, share),
            "var": self.var.lerp(var, share).add_(between),
            "count": torch.full_like(self.count, 1.0 / share),
            "apart": torch.full_like(self.apart, known),
            "before": torch.stack((mean, var)),
            "batches": self.batches + 1,
            "kept": torch.full_like(self.kept, self._kept if self.estimate.anchor == "source" else 0.0),
        }

    def take(self, averages: Mapping[str, Tensor]) -> None:
        """Put buffers in by name; the batch that was last forwarded is forgotten."""
        for name, value in averages.items():
            self.get_buffer(name).copy_(value)
        self._batch = None

    def served(self) -> dict[str, Tensor]:
        """Tensors of the plain inference-mode BatchNorm to serve, by their names there."""
        affine = {"weight": self.weight, "bias": self.bias}
        mean, var = self.mean.lerp(self.source_mean, self.kept), self.var.lerp(self.source_var, self.kept)
        given = {name: p.detach() for name, p in affine.items() if p is not None}
        return {**given, "running_mean": mean, "running_var": var}

    def _change(self, mean: Tensor, var: Tensor, count: float) -> tuple[float, float]:
        """How far batches lie apart, and the share of the batch if it starts another domain, else 0."""
        batches = int(self.batches)
        if not batches or math.isinf(self.estimate.change):
            return float(self.apart), 0.0
        newest = apart(mean, var, *self.before) / 2
        known = newest if batches == 1 else float(self.apart)
        ratio = apart(mean, var, self.mean, self.var) / max(known * (1 + 1 / count), 1e-12)
        change = 1 - 1 / ratio if ratio > self.estimate.change else 0.0
        return known + QUIET * (min(newest, 4 * known) - known), change


def absorb(layers: Iterable[AdaptiveBatchNorm]) -> bool:
    """Move the averages of all layers by the batch last forwarded; of none where a number would not be finite.

    A layer behind one whose statistics are infinite sees a constant: its own are finite and mean nothing.

    Returns:
        Whether all numbers were finite.
    """
    found = [(layer, layer.averages()) for layer in layers]
    finite = all_finite(*(value for _, averages in found for value in averages.values()))
    for layer, averages in found:
        layer.take(averages if finite else {})
    return finite


@contextmanager
def unseen(norms: Iterable[AdaptiveBatchNorm]) -> Iterator[None]:
    """Context in which forward passes leave the batch that the layers remember as it was."""
    layers = list(norms)
    remembered = [layer._batch for layer in layers]
    try:
        yield
    finally:
        for layer, batch in zip(layers, remembered, strict=True):
            layer._batch = batch


def apart(mean: Tensor, var: Tensor, mean_a: Tensor, var_a: Tensor) -> float:
    """Distance of two sets of statistics [channels], >= 0, in units of the variance; twice a divergence."""
    spread = (var + TINY) / (var_a + TINY)
    return float(((mean - mean_a) ** 2 / (var_a + TINY) + spread.log() ** 2 / 2).mean())


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
    kinds = {"BatchNorm": _BatchNorm, "GroupNorm": nn.GroupNorm, "LayerNorm": nn.LayerNorm}
    kinds["scale and shift"] = ChannelAffine
    count = {kind: sum(isinstance(m, cls) for m in model.modules()) for kind, cls in kinds.items()}
    return {kind: n for kind, n in count.items() if n}
