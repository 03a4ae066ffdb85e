"""Layers behind a convolution or a linear layer that carries a folded normalisation.

They exist in the learning copy only. What they learn is folded into the weights before them when a version is made,
so that the served graph keeps its structure (`tta_agent.models.onnx_import.unfold`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

TINY = (
    1e-5  # share of the mean variance that is added to the variance, as BatchNorm adds 1e-5 to one of about 1
)


class SiteNorm(_BatchNorm):
    """BatchNorm that changes nothing until its statistics or its scale and shift move.

    With the source's mean m and variance v of its input, weight = sqrt(v + eps) and bias = m. A BatchNorm with scale
    gamma and shift beta that was folded into the layer before has left m = beta and v = gamma^2 there, so that this
    is the layer that was folded, but for the sign of gamma.

    Args:
        mean, var: of the input by channel, on source data.
    """

    def __init__(self, mean: Tensor, var: Tensor) -> None:
        eps = max(TINY * float(var.mean()), 1e-12)
        super().__init__(len(mean), eps=eps, device=mean.device, dtype=mean.dtype)
        with torch.no_grad():
            self.running_mean = mean.clone()
            self.running_var = var.clone()
            self.weight.copy_((var + eps).sqrt())
            self.bias.copy_(mean)
        self.eval().requires_grad_(False)

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of axes after the channels."""


class ChannelAffine(nn.Module):
    """Scale and shift by channel, [B, channels, ...] -> the same shape; some files have them as layers."""

    def __init__(
        self, channels: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, device=device, dtype=dtype), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift every channel."""
        sizes = (1, -1, *[1] * (x.dim() - 2))
        return x * self.weight.view(sizes) + self.bias.view(sizes)


class SiteAffine(ChannelAffine):
    """Site without source statistics."""


Site = SiteNorm | SiteAffine


def scale_and_shift(tensors: dict[str, Tensor], site: Site) -> tuple[Tensor, Tensor]:
    """Scale and shift [channels] by these tensors of a site, exactly 1 and 0 for those that it starts with."""
    if isinstance(site, SiteAffine):
        return tensors["weight"], tensors["bias"]
    scale = tensors["weight"] / (tensors["running_var"] + site.eps).sqrt()
    return scale, tensors["bias"] - tensors["running_mean"] * scale
