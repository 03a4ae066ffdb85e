"""Weak views of a batch: every image cropped, resized back and perhaps mirrored, each by its own draw."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WIDEST = math.log(4 / 3)  # of a crop's width over its height, and of its height over its width


def random_crops(x: Tensor, generator: torch.Generator, smallest: float = 0.8) -> Tensor:
    """A random resized crop and, for one half, a flip, of every image: [B, C, H, W] -> the same shape.

    The area is uniform in smallest .. 1 of the image and the logarithm of the aspect ratio uniform within
    3/4 .. 4/3, as far as the crop stays inside the image (the usual implementation draws until it does).
    Bilinear. What is no batch of images comes back as it is; nothing is drawn for it.

    Args:
        generator: of the CPU; five numbers an image are drawn.
        smallest: least area, in (0, 1].
    """
    if x.dim() != 4:
        return x
    u = torch.rand(5, len(x), generator=generator)
    area = smallest + (1 - smallest) * u[0]
    within = torch.minimum(-area.log(), torch.tensor(WIDEST))  # a crop of this area fits up to this ratio
    ratio = ((2 * u[1] - 1) * within).exp()
    width, height = (area * ratio).sqrt(), (area / ratio).sqrt()
    theta = torch.zeros(len(x), 2, 3)
    theta[:, 0, 0] = torch.where(u[4] < 0.5, -width, width)
    theta[:, 0, 2] = (2 * u[2] - 1) * (1 - width)
    theta[:, 1, 1] = height
    theta[:, 1, 2] = (2 * u[3] - 1) * (1 - height)
    grid = F.affine_grid(theta.to(x), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)
