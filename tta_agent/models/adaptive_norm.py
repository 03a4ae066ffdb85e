"""A BatchNorm that learns the statistics of the target.

A test-time method normalises with the statistics of the batch that it scores. A served graph answers one
request at a time and needs statistics of its own. `AdaptiveBatchNorm` does the first and estimates the second.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tta_agent.models.absorb import absorb
from tta_agent.models.stats_config import StatsConfig
from tta_agent.models.target_stats import NAMES, TINY, Averages, BatchStats, sample_noise, start

AFTER = ("drop", "act")  # what timm's BatchNormAct2d does after normalising, in this order


class AdaptiveBatchNorm(nn.Module):
    """BatchNorm that answers with batch statistics and averages them for the graph to be served.

    A batch of B samples moves the averages, which are worth n samples (0 at first), by a share a:

        var  <- var + a (var_B - var) + a (1 - a) (mean_B - mean)^2
        mean <- mean + a (mean_B - mean),  a = max(B / min(n + B, size / momentum), a_change),  n <- B / a

    with `var_B` unbiased, as nn.BatchNorm2d does it, and `size` the mean size of a batch, at least B: quick at
    first, quiet later. The last term is the variance between batches, without which a stream of one class at a time
    would look narrower than it is. How much the averages are worth, the batches say themselves. With the distances
    of two sets of statistics, averaged over the channels,

        d_m(B, A) = (mean_B - mean_A)^2 / var_A,  d_v(B, A) = ln(var_B / var_A)^2 / 2,  d = d_m + d_v

    a batch lies d = rho / B from the truth of its domain. The first batch knows rho from how far its samples lie
    apart, rho_m = Var_i(mean_i) / var and rho_v = Var_i(var_i) / (2 var^2); later ones from the batch before, as
    d(B, B_before) / (1/B + 1/B_before). A batch for which q = d(B, averages) / (rho (1/B + 1/n)) exceeds `change`
    starts another domain: a_change = 1 - 1/q, the share under which the averages would lie as far from the batch as
    batches of one domain do.

    Served is a compromise of averages and source, each by how far it is to be believed:

        mean + w_m (mean_source - mean),  var^(1 - w_v) var_source^w_v,  w = min(1, (rho / n) / d(source, averages))

    the positive-part estimator of James and Stein towards the source (Efron and Morris, JASA 68, 1973): what the
    averages may owe to chance alone is no reason to leave the source.

    `forward` only remembers the batch's statistics; `absorb` moves the averages. So a batch from which nothing
    is learnt leaves no trace. A feature map with one value per channel (one sample, one pixel) has no variance:
    it is normalised as it would be served, and adds nothing to the averages.
    """

    mean: Tensor
    var: Tensor
    batches: Tensor
    count: Tensor
    kept: Tensor
    shrunk: Tensor
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
        averages = start(mean, var)
        for name in NAMES:
            self.register_buffer(name, getattr(averages, name))
        self.register_buffer("source_mean", mean.clone(), persistent=False)
        self.register_buffer("source_var", var.clone(), persistent=False)
        self._batch: BatchStats | None = None
        self._fresh: bool | None = True  # no batch was absorbed yet; None: look

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, channels, ...] by the batch itself (mixed with the anchor)."""
        y = self.normalise(x)
        for part in self.after:
            y = part(y)
        return y

    def normalise(self, x: Tensor) -> Tensor:
        """Normalise without what comes after; on a learning pass the batch is remembered."""
        learns = torch.is_grad_enabled()  # predict() runs without: it must leave nothing behind
        if x.numel() // x.shape[1] < 2:
            self._batch = None if learns else self._batch
            return F.batch_norm(x, *self.running(), self.weight, self.bias, False, 0.0, self.eps)
        if not learns and not self.estimate.prior:
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        mean, var = torch.zeros_like(self.mean), torch.zeros_like(self.var)
        if self.estimate.prior:
            y, kept = self._mixed(x, mean, var)
        else:  # at momentum 1 the kernel leaves this batch's mean and unbiased variance behind: no pass for them
            y, kept = F.batch_norm(x, mean, var, self.weight, self.bias, True, 1.0, self.eps), None
        if learns:
            self.remember(x, mean, var, kept)
        return y

    def remember(self, x: Tensor, mean: Tensor, var: Tensor, mixed: Tensor | None = None) -> None:
        """Keep the statistics [channels] of a batch [B, channels, ...] until they are absorbed.

        Args:
            mixed: share of the source in the statistics that it is normalised by, where the method mixes some in.
        """
        noise = sample_noise(x, mean, var) if self.fresh else None
        self._batch = BatchStats(mean, var, len(x), noise, mixed)

    @property
    def fresh(self) -> bool:
        """Whether no batch was absorbed yet; a device is waited for once after a state was loaded."""
        if self._fresh is None:
            self._fresh = not int(self.batches)
        return self._fresh

    def _mixed(self, x: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor | None]:
        """As if by (prior anchor + B batch) / (prior + B), with gradients through the batch's statistics.

        Returns:
            The normalised batch, and the share of the source where it is the anchor.
        """
        plain = F.batch_norm(x, mean, var, None, None, True, 1.0, self.eps)
        kept = self.estimate.prior / (self.estimate.prior + len(x))
        mean_a, var_a = self.anchor()
        values = x.numel() // x.shape[1]
        biased = var * ((values - 1) / values)  # the kernel divided by this one
        y = self.rescale(plain, mean, biased, mean.lerp(mean_a, kept), var.lerp(var_a, kept))
        return y, torch.full_like(self.kept, kept) if self.estimate.anchor == "source" else None

    def anchor(self) -> tuple[Tensor, Tensor]:
        """Mean and variance [channels] that batches are mixed with."""
        if self.estimate.anchor == "average":
            return self.running()
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

    @property
    def state(self) -> Averages:
        """The averages, without a copy."""
        return Averages(*(self._buffers[name] for name in NAMES))  # type: ignore[arg-type]

    def running(self) -> tuple[Tensor, Tensor]:
        """Mean and variance [channels] to serve: averages and source, as far as each is to be believed."""
        mean = self.mean.lerp(self.source_mean, self.shrunk[0])
        ratio = (self.source_var + TINY) / (self.var + TINY)
        var = ((self.var + TINY) * ratio.pow(self.shrunk[1]) - TINY).clamp_min(0)
        return mean.lerp(self.source_mean, self.kept), var.lerp(self.source_var, self.kept)

    def served(self) -> dict[str, Tensor]:
        """Tensors of the plain inference-mode BatchNorm to serve, by their names there."""
        affine = {"weight": self.weight, "bias": self.bias}
        mean, var = self.running()
        given = {name: p.detach() for name, p in affine.items() if p is not None}
        return {**given, "running_mean": mean, "running_var": var}

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        """Averages of an older version, in which the source counts as a batch, stay until the next batch."""
        if f"{prefix}mean" in state and f"{prefix}size" not in state:
            found = start(state[f"{prefix}mean"], state[f"{prefix}var"])
            state |= {prefix + name: getattr(found, name) for name in NAMES if name != "kept"}
        self._fresh = None
        super()._load_from_state_dict(state, prefix, *args)
