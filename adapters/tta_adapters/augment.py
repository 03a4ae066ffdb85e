"""The augmentations of CoTTA (Wang, Fink, Van Gool, Dai, CVPR 2022, arXiv 2203.13591), batched.

    clip, colour jitter, pad by half the side, affine map, blur, centre crop, flip, noise, clip

    affine: turn by up to 15 degrees, shift by up to 1/16 of the padded sides in whole pixels, scale by 0.9 .. 1.1
    blur:   Gaussian, 5 x 5, sigma 0.001 .. 0.5;   flip: one half;   noise: sd 0.005

RMT uses the same stack; ROID leaves out blur and noise and pads by reflection. Every number is drawn once per
call, for the whole batch, as in the reference; only the noise is each pixel's own. They work on pixels in 0 .. 1,
so inputs are brought back there by the mean and std they were standardised with (`tta_adapters.pixels`).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_adapters.colour import jitter, uniform
from tta_adapters.pixels import Pixels
from tta_agent.core.types import SourceInfo

Padding = Literal["replicate", "reflect"]
REACH = 2  # pixels that a 5 x 5 blur looks beyond the crop


class Augment:
    """One random view of a batch, standardised like the batch.

    Args:
        origin: pixel facts of the model; None or mean 0 and std 1 where not known.
        soften: blur and noise too.
        padding: what lies beyond the border when the image is turned and shifted.
    """

    def __init__(
        self, origin: SourceInfo | None, *, soften: bool = True, padding: Padding = "replicate"
    ) -> None:
        self._pixels = Pixels(origin)
        self.soften, self.padding = soften, padding

    @torch.no_grad()
    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """[B, channels, H, W] -> the same shape; moves the generator on.

        Raises:
            CannotAdapt: the inputs are not images, or have other channels than mean and std.
        """
        mean, std = self._pixels.scale(x)
        with torch.autocast(x.device.type, enabled=False):
            pixels = jitter((x.float() * std + mean).clamp(0, 1), generator)
            pixels = self._moved(pixels, generator)
            if self.soften:
                pixels = noisy(blurred(pixels, uniform(0.001, 0.5, generator)), generator)
            return ((pixels.clamp(0, 1) - mean) / std).to(x.dtype)

    def _moved(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Turned, shifted, scaled, perhaps flipped; with a margin for the blur where there will be one."""
        height, width = pixels.shape[2:]
        angle = math.radians(uniform(-15, 15, generator))
        shift = [round(uniform(-1, 1, generator) * (side + side // 2 * 2) / 16) for side in (width, height)]
        scale = uniform(0.9, 1.1, generator)
        margin = REACH if self.soften else 0
        moved = affine(pixels, angle, (shift[0], shift[1]), scale, self.padding, margin)
        return moved.flip(3) if uniform(0, 1, generator) < 0.5 else moved


def affine(
    pixels: Tensor, angle: float, shift: tuple[int, int], scale: float, padding: Padding, margin: int
) -> Tensor:
    """Pad by half the sides, map about the centre, crop to the old sides and `margin` pixels around.

    Only what the crop keeps is computed. A pixel at offset (u, v) from the centre takes its value, bilinearly, from
    R(angle) (u - shift_x, v - shift_y) / scale.
    """
    batch, channels, height, width = pixels.shape
    beside, above = width // 2, height // 2
    padded = F.pad(pixels, (beside, beside, above, above), mode=padding)
    u = _offsets(width + 2 * margin, pixels) - shift[0]
    v = (_offsets(height + 2 * margin, pixels) - shift[1]).unsqueeze(1)
    across = (math.cos(angle) * u + math.sin(angle) * v) * 2 / (scale * padded.shape[3])
    down = (math.cos(angle) * v - math.sin(angle) * u) * 2 / (scale * padded.shape[2])
    grid = torch.stack((across, down), dim=-1).unsqueeze(0)
    # one map for all: images become channels, so that its weights are computed once
    flat = padded.reshape(1, batch * channels, *padded.shape[2:])
    mapped = F.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return mapped.view(batch, channels, *mapped.shape[2:])


def blurred(pixels: Tensor, sigma: float) -> Tensor:
    """Gaussian over 5 x 5 pixels, without padding: 2 pixels less on each side."""
    kernel = torch.exp(-0.5 * (_offsets(2 * REACH + 1, pixels) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    batch, channels, height, width = pixels.shape
    flat = pixels.reshape(batch * channels, 1, height, width)
    flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return flat.view(batch, channels, *flat.shape[2:])


def noisy(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """With Gaussian noise of sd 0.005, each pixel its own."""
    noise = torch.empty_like(pixels).normal_(0, 0.005, generator=local(generator, pixels.device))
    return pixels + noise


def local(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """A generator on the device, seeded by the next number of this one: masses of numbers are drawn there."""
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)


def _offsets(n: int, like: Tensor) -> Tensor:
    """n pixels' distances from their centre, [n]."""
    return torch.arange(n, device=like.device, dtype=like.dtype) - (n - 1) / 2
