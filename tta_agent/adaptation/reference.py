"""Reference model: the deployed one, with which selectors compare the copy."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tta_agent.models.batchnorm import AdaptiveBatchNorm, StatsConfig, convert


class ReferenceModel:
    """The deployed model, for selectors that compare the copy with it.

    Args:
        module: inference mode, on the device.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._batch_module: nn.Module | None = None

    @torch.no_grad()
    def logits(self, x: Tensor, served: Tensor | None) -> Tensor:
        """Logits [B, ...] -> [B, C] in inference mode; rows that were `served` (not NaN) are not computed again."""
        if served is None:
            return self._module(x)  # type: ignore[no-any-return]
        unknown = served.isnan().flatten(1).any(dim=1)
        if unknown.any():
            served = served.clone()
            served[unknown] = self._module(x[unknown]).to(served.dtype)
        return served

    @torch.no_grad()
    def batch_logits(self, x: Tensor) -> Tensor:
        """Logits [B, ...] -> [B, C] under the statistics of this batch."""
        if self._batch_module is None:
            self._batch_module = copy.deepcopy(self._module)
            convert(self._batch_module, lambda layer: AdaptiveBatchNorm(layer, StatsConfig()))
        return self._batch_module(x)  # type: ignore[no-any-return]
