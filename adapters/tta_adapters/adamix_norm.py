"""The BatchNorm of DomainAdaptor: normalises by a mixture of source and batch (formulas in `adamixbn`)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from tta_agent.models.batchnorm import AdaptiveBatchNorm, StatsConfig

Moments = tuple[Tensor, Tensor]  # mean and variance
SMALL = 1e-12  # below any distance or variance that means something; keeps square roots and ratios finite


class AdaMixNorm(AdaptiveBatchNorm):
    """A BatchNorm that mixes the batch with the source by their distances, and averages batch and mixture.

    Args:
        layer: the source's.
        estimate: how the served averages are made; `prior` and `anchor` mean nothing here.
        transform: statistic transformation, or gradients through alpha.
    """

    def __init__(self, layer: _BatchNorm, estimate: StatsConfig, transform: bool) -> None:
        super().__init__(layer, estimate)
        self.transform = transform

    def normalise(self, x: Tensor) -> Tensor:
        """[B, channels, ...] -> the same shape, by the mixture."""
        learns = torch.is_grad_enabled()
        if x.numel() // x.shape[1] < 2:
            self._batch = None if learns else self._batch
            return F.batch_norm(
                x, self.source_mean, self.source_var, self.weight, self.bias, False, 0.0, self.eps
            )
        with torch.set_grad_enabled(learns and not self.transform):
            mean, var, spread, alpha = self._statistics(x)
            mean_to, var_to = mean.lerp(self.source_mean, alpha), var.lerp(self.source_var, alpha)
        if learns:
            self.remember(x, mean.detach(), var.detach(), alpha.detach())
        if self.transform:
            weight, bias = self._rewritten(mean - mean_to, spread, var_to)
            return F.batch_norm(x, None, None, weight, bias, True, 0.0, self.eps)
        # as it comes: mean 0, and eps is added to the variance
        return self.rescale(x, torch.zeros_like(mean), torch.ones_like(var) - self.eps, mean_to, var_to)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the batch: mean, unbiased and biased variance [channels]; and alpha."""
        mean_i, var_i, size = instance_statistics(x)
        n = len(x) * size
        mean = mean_i.mean(0)
        spread = (max(size - 1, 1) * var_i.sum(0) + size * ((mean_i - mean) ** 2).sum(0)) / n
        var = spread * (n / (n - 1))
        source = self.source_mean, self.source_var
        return mean, var, spread, mixture((mean_i, var_i), (mean, var), source)

    def _rewritten(self, shift: Tensor, spread: Tensor, var_to: Tensor) -> tuple[Tensor, Tensor]:
        """gamma' and beta' [channels], with graph to gamma and beta. The kernel divides by the biased variance."""
        scale = torch.sqrt((spread + self.eps) / (var_to + self.eps))
        shift = shift / torch.sqrt(var_to + self.eps)
        weight = scale if self.weight is None else scale * self.weight
        bias = shift if self.weight is None else shift * self.weight
        return weight, bias if self.bias is None else bias + self.bias


def instance_statistics(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Of every map: mean and unbiased variance [B, channels], and how many values it has (of one: variance 0)."""
    values = x.to(torch.promote_types(x.dtype, torch.float32))  # sums of half precision would be too coarse
    values = values.flatten(2) if x.dim() > 2 else values[..., None]
    size = values.shape[2]
    var, mean = torch.var_mean(values, dim=2, correction=min(1, size - 1))
    return mean, var, size


def mixture(instances: Moments, batch: Moments, source: Moments) -> Tensor:
    """alpha, the weight of the source, 0 .. 1: instances [B, channels], batch and source [channels]."""
    ts, si, ti = distance(batch, source), distance(instances, source), distance(instances, batch)
    total = ts + si + ti
    alpha = torch.where(total > SMALL, 1 - ts / total.clamp_min(SMALL), 0.5)  # all three alike: the limit
    return alpha.clamp(0, 1).mean()


def distance(one: Moments, other: Moments) -> Tensor:
    """d(a, b) over the last axis; the variances' roots are compared."""
    std, std_other = one[1].clamp_min(SMALL).sqrt(), other[1].clamp_min(SMALL).sqrt()
    return ((one[0] - other[0]) ** 2).mean(-1) + ((std - std_other) ** 2).mean(-1)
