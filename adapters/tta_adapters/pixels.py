"""Inputs as pixels in 0 .. 1, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from tta_agent.core.errors import CannotAdapt
from tta_agent.core.types import SourceInfo


class Pixels:
    """How the inputs of a model were made of pixels: x = (pixel - mean) / std.

    Where that is not known (no origin, or one of mean 0 and std 1), the range of the batch, widened to hold 0 and 1,
    is taken for the range of pixels: clipping what is already standardised would destroy it.
    """

    def __init__(self, origin: SourceInfo | None) -> None:
        origin = origin or SourceInfo()
        self._mean, self._std = (torch.tensor(v).view(1, -1, 1, 1) for v in (origin.mean, origin.std))
        self._known = (origin.mean, origin.std) != (SourceInfo().mean, SourceInfo().std)

    def scale(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, std) of a batch of images [B, channels, H, W], each broadcast over it.

        Raises:
            CannotAdapt: the inputs are not images, or have other channels than mean and std.
        """
        if x.dim() != 4 or self._mean.shape[1] not in (1, x.shape[1]):
            raise CannotAdapt(
                f"augmentations are for images [B, channels, H, W], here with {self._mean.shape[1]} or any channels; "
                f"got inputs of shape {list(x.shape)}: TTA_ADAPT__METHOD=tent or eata need no images"
            )
        if self._known:
            return self._mean.to(x.device), self._std.to(x.device)
        low, high = x.float().aminmax()
        low, high = low.clamp(max=0), high.clamp(min=1)
        return -low / (high - low), 1 / (high - low)
