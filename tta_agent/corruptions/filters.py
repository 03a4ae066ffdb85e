"""Filters that several families share: kernels, blurs, zoom and plasma clouds. Images are [B, C, S, S]."""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

DIRECTIONS = 24  # classes of angles, which a batch shares


def uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    """Uniform random numbers between `low` and `high`."""
    return low + (high - low) * torch.rand(shape, generator=generator)


def gaussian_kernel(sigma: float, reach: float = 4.0) -> Tensor:
    """Gaussian weights [2r + 1] that sum to one, cut off at `reach` deviations."""
    radius = max(1, int(reach * sigma + 0.5))
    at = torch.arange(-radius, radius + 1.0)
    weights = torch.exp(-(at**2) / (2 * sigma**2))
    return weights / weights.sum()


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolution of each channel with the same kernel [h, w], the borders reflected."""
    height, width = kernel.shape
    channels = x.shape[1]
    padded = F.pad(x, (width // 2, width // 2, height // 2, height // 2), mode="reflect")
    return F.conv2d(padded, kernel.expand(channels, 1, height, width).contiguous(), groups=channels)


def gaussian_blur(x: Tensor, sigma: float, reach: float = 4.0) -> Tensor:
    """Separable Gaussian blur."""
    kernel = gaussian_kernel(sigma, reach)
    longest = 2 * x.shape[-1] - 1  # a reflection cannot be wider than the image
    if len(kernel) > longest:
        cut = (len(kernel) - longest) // 2
        kernel = kernel[cut : cut + longest] / kernel[cut : cut + longest].sum()
    return convolve(convolve(x, kernel[None, :]), kernel[:, None])


def streak(x: Tensor, angle: float, weights: Tensor) -> Tensor:
    """Weighted sum of copies of `x`, each one pixel further along `angle` (radians), the borders repeated."""
    size, radius = x.shape[-1], len(weights) - 1
    padded = F.pad(x, (radius,) * 4, mode="replicate")
    out = torch.zeros_like(x)
    for step, weight in enumerate(weights.tolist()):
        top, left = radius + round(step * math.sin(angle)), radius + round(step * math.cos(angle))
        out.add_(padded[:, :, top : top + size, left : left + size], alpha=weight)
    return out


def motion_blur(
    x: Tensor, radius: float, sigma: float, degrees: tuple[float, float], generator: Generator
) -> Tensor:
    """Blur of each image along a random direction between two angles, fading along the way."""
    length = min(2 * int(radius) + 1, math.ceil(4 * sigma))  # what is cut off weighs under 1/1000
    weights = torch.exp(-(torch.arange(float(length)) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    low, high = (math.radians(angle) for angle in degrees)
    direction = torch.randint(0, DIRECTIONS, (len(x),), generator=generator)
    out = torch.empty_like(x)
    for index in range(DIRECTIONS):
        those = direction == index
        if those.any():
            out[those] = streak(x[those], low + (high - low) * (index + 0.5) / DIRECTIONS, weights)
    return out


def zoom(x: Tensor, factor: float) -> Tensor:
    """Enlarged middle of each image."""
    if factor == 1:
        return x
    scale = torch.tensor([[1 / factor, 0.0, 0.0], [0.0, 1 / factor, 0.0]]).expand(len(x), 2, 3)
    grid = F.affine_grid(scale, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False, padding_mode="reflection")


def plasma(count: int, size: int, decay: float, generator: Generator) -> Tensor:
    """Fractal clouds [count, 1, size, size] in [0, 1] by the diamond-square rule.

    A larger `decay` is smoother.
    """
    side = 2 ** math.ceil(math.log2(max(size, 2)))
    clouds, step, wibble = torch.zeros(count, side, side), side, 100.0

    def filled(four: Tensor) -> Tensor:
        return four / 4 + wibble * uniform(tuple(four.shape), -wibble, wibble, generator)

    while step >= 2:
        half = step // 2
        corners = clouds[:, ::step, ::step]
        pairs = corners + corners.roll(-1, 1)
        clouds[:, half::step, half::step] = filled(pairs + pairs.roll(-1, 2))
        centres = clouds[:, half::step, half::step]
        across = centres + centres.roll(1, 1) + corners + corners.roll(-1, 2)
        clouds[:, ::step, half::step] = filled(across)
        down = centres + centres.roll(1, 2) + corners + corners.roll(-1, 1)
        clouds[:, half::step, ::step] = filled(down)
        step, wibble = half, wibble / decay
    clouds = clouds[:, :size, :size] - clouds[:, :size, :size].amin((1, 2), keepdim=True)
    return (clouds / clouds.amax((1, 2), keepdim=True))[:, None]
