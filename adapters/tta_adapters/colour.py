"""Colour jitter: brightness, contrast, saturation, hue and gamma in random order, one draw for the whole batch.

The ranges are those of CoTTA (Wang, Fink, Van Gool, Dai, CVPR 2022, arXiv 2203.13591). Pixels are [B, channels,
H, W] in 0 .. 1 and stay there. Saturation and hue exist for three channels only; others keep what they have.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # of red, green, blue


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """One number in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def gray(pixels: Tensor) -> Tensor:
    """[B, channels, H, W] -> [B, 1, H, W]: luma where there are three channels, else their mean."""
    if pixels.shape[1] != 3:
        return pixels.mean(1, keepdim=True)
    return (pixels * pixels.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def brightness(pixels: Tensor, factor: float) -> Tensor:
    """0 is black, 1 changes nothing."""
    return (pixels * factor).clamp(0, 1)


def contrast(pixels: Tensor, factor: float) -> Tensor:
    """0 is each image's mean gray, 1 changes nothing."""
    return gray(pixels).mean((2, 3), keepdim=True).lerp(pixels, factor).clamp(0, 1)


def saturation(pixels: Tensor, factor: float) -> Tensor:
    """0 is gray, 1 changes nothing."""
    return gray(pixels).expand_as(pixels).lerp(pixels, factor).clamp(0, 1)


def gamma(pixels: Tensor, exponent: float) -> Tensor:
    """pixels ** exponent."""
    return pixels.clamp(1e-8, 1).pow(exponent)


def hue(pixels: Tensor, turn: float) -> Tensor:
    """Turn the colour circle by a share of it, -0.5 .. 0.5; value and chroma stay.

    With the hue h in sextants and k_n = (n + h) mod 6, a channel is value - chroma max(0, min(k_n, 4 - k_n, 1))
    for n = 5, 3, 1 (red, green, blue).
    """
    red, green, blue = pixels.unbind(1)
    value = pixels.amax(1)
    chroma = value - pixels.amin(1)
    safe = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    sextant = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    offsets = pixels.new_tensor((5.0, 3.0, 1.0)).view(1, 3, 1, 1)
    k = (offsets + (sextant + 6 * turn).unsqueeze(1)) % 6
    return value.unsqueeze(1) - chroma.unsqueeze(1) * torch.minimum(k, 4 - k).clamp(0, 1)


Change = Callable[[Tensor, float], Tensor]
ANY: tuple[tuple[Change, float, float], ...] = (
    (brightness, 0.6, 1.4),
    (contrast, 0.7, 1.3),
    (gamma, 0.7, 1.3),
)
COLOURED: tuple[tuple[Change, float, float], ...] = ((saturation, 0.5, 1.5), (hue, -0.06, 0.06))


def jitter(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """All of them once, in random order and by random amounts."""
    changes = ANY + COLOURED if pixels.shape[1] == 3 else ANY
    for i in torch.randperm(len(changes), generator=generator).tolist():
        change, low, high = changes[i]
        pixels = change(pixels, uniform(low, high, generator))
    return pixels
