"""Blur: defocus, frosted glass, motion and zoom."""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from tta_agent.corruptions import filters
from tta_agent.corruptions.tables import Params


def defocus_blur(x: Tensor, params: Params, generator: Generator) -> Tensor:
    """Blur of a lens out of focus: convolution with a disk of soft edge."""
    radius, softness = params
    at = torch.arange(-3.0, 4.0)
    disk = (at[:, None] ** 2 + at[None, :] ** 2 <= radius**2).float()
    edge = torch.exp(-(torch.arange(-1.0, 2.0) ** 2) / (2 * softness**2))
    soft = F.conv2d(
        (disk / disk.sum())[None, None], torch.outer(edge, edge)[None, None] / edge.sum() ** 2, padding=1
    )
    return filters.convolve(x, soft[0, 0])


def glass_blur(x: Tensor, params: Params, generator: Generator) -> Tensor:
    """Blur of frosted glass: each pixel in turn takes the value of a random neighbour."""
    sigma, reach, passes = params[0], int(params[1]), int(params[2])
    count, _, size, _ = x.shape
    # pixels first and images last: a step of the loop below moves one pixel of all images
    y = filters.gaussian_blur(x, sigma).permute(2, 3, 0, 1).contiguous()
    image = torch.arange(count)
    for _ in range(passes):
        moves = torch.randint(-reach, reach, (2, size, size, count), generator=generator)
        for row in range(size - reach, reach, -1):
            for column in range(size - reach, reach, -1):
                down, right = moves[:, row, column]
                # a copy, not a swap: in the reference the two sides of the swap are views of the same memory
                y[row, column] = y[row + down, column + right, image]
    return filters.gaussian_blur(y.permute(2, 3, 0, 1).contiguous(), sigma)


def motion_blur(x: Tensor, params: Params, generator: Generator) -> Tensor:
    """Blur of a moving camera, in a direction of up to 45 degrees."""
    return filters.motion_blur(x, params[0], params[1], (-45, 45), generator)


def zoom_blur(x: Tensor, params: Params, generator: Generator) -> Tensor:
    """Blur of an approaching camera: the mean of ever larger exposures."""
    exposures = int(params[0])
    total = x.clone()
    for index in range(exposures):
        total += filters.zoom(x, 1 + index / 100)
    return total / (exposures + 1)
