"""Synthetic shifts: the 15 common corruptions, seven others, mixtures, and images of unknown classes."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from tta_agent import corruptions
from tta_agent.core.types import Array

CLEAN = "clean"
CHUNK = 250  # images corrupted at once, for memory
SMALL = 64  # pixels a side up to which the constants for small images are taken
Shift = Callable[[Tensor, int, Generator], Tensor]


def _cast(x: Tensor, severity: int, random: Generator) -> Tensor:
    gain = 1 + (torch.rand(len(x), x.shape[1], 1, 1, generator=random) * 2 - 1) * 0.14 * severity
    return x * gain


def _rotation(x: Tensor, severity: int, random: Generator) -> Tensor:
    most = (0.09, 0.17, 0.26, 0.36, 0.48)[severity - 1]
    angle = (torch.rand(len(x), generator=random) * 2 - 1).sign() * most
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    matrix = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def _downscale(x: Tensor, severity: int, random: Generator) -> Tensor:
    share = (0.85, 0.72, 0.6, 0.5, 0.42)[severity - 1]
    size = max(round(x.shape[-1] * share), 2)
    small = F.interpolate(x, size=(size, size), mode="area")
    return F.interpolate(small, size=x.shape[-2:], mode="bilinear", align_corners=False)


def _gamma(x: Tensor, severity: int, random: Generator) -> Tensor:
    return x.clamp(0, 1) ** (1 + 0.45 * severity)


def _occlusion(x: Tensor, severity: int, random: Generator) -> Tensor:
    side = max(round(x.shape[-1] * (0.14 + 0.07 * severity)), 1)
    corner = torch.randint(0, x.shape[-1] - side + 1, (len(x), 2), generator=random)
    along = torch.arange(x.shape[-1])
    inside = (along >= corner[..., None]) & (along < corner[..., None] + side)  # [B, 2, S]
    box = inside[:, 0, :, None] & inside[:, 1, None, :]
    return torch.where(box[:, None], x.mean((2, 3), keepdim=True), x)


def _grey(x: Tensor, severity: int, random: Generator) -> Tensor:
    return x.lerp(x.mean(1, keepdim=True), severity / 5)


def _inverted(x: Tensor, severity: int, random: Generator) -> Tensor:
    return x.lerp(1 - x, 0.1 * severity)


EXTRA: dict[str, Shift] = {
    "colour_cast": _cast,
    "rotation": _rotation,
    "downscale": _downscale,
    "gamma": _gamma,
    "occlusion": _occlusion,
    "grey": _grey,
    "inverted": _inverted,
}


@torch.no_grad()
def shifted(pixels: Array, family: str, severity: int, seed: int) -> Array:
    """Shift uint8 [N, C, S, S] by one family of `corruptions.NAMES`, `EXTRA`, or `clean`; the shape stays."""
    if family == CLEAN:
        return pixels
    parts = [
        _one(pixels[start : start + CHUNK], family, severity, seed + i)
        for i, start in enumerate(range(0, len(pixels), CHUNK))
    ]
    return torch.cat(parts).numpy() if parts else pixels


def _one(pixels: Array, family: str, severity: int, seed: int) -> Tensor:
    x = torch.from_numpy(pixels).float() / 255
    if family in EXTRA:
        random = Generator().manual_seed(zlib.crc32(f"{family} {seed}".encode()))
        y = EXTRA[family](x, severity, random).clamp(0, 1)
    else:
        constants = "cifar" if x.shape[-1] <= SMALL else "imagenet"
        y = corruptions.corrupt(x, family, severity, seed, constants)
    return (y * 255).round().to(torch.uint8)


def mixed(pixels: Array, families: tuple[str, ...], severity: int, seed: int) -> Array:
    """Shift each image by a random one of several families."""
    random = Generator().manual_seed(seed)
    which = torch.randint(0, len(families), (len(pixels),), generator=random).numpy()
    out = pixels.copy()
    for i, family in enumerate(families):
        out[which == i] = shifted(pixels[which == i], family, severity, seed)
    return out


@torch.no_grad()
def strangers(pixels: Array, seed: int) -> Array:
    """Make images of unknown classes from known ones, a third each: patches scrambled, two images overlaid, and
    stretched to a texture. They have the colours of the data, so that only their content is unknown."""
    random = Generator().manual_seed(seed)
    x = torch.from_numpy(pixels).float()
    kind = torch.arange(len(x)) % 3
    out = torch.empty_like(x)
    out[kind == 0] = _scrambled(x[kind == 0], random)
    other = x[torch.randperm(len(x), generator=random)].flip(-1)
    out[kind == 1] = (0.5 * x + 0.5 * other)[kind == 1]
    out[kind == 2] = _texture(x[kind == 2])
    return out.round().to(torch.uint8).numpy()


def _scrambled(x: Tensor, random: Generator, grid: int = 4) -> Tensor:
    side = x.shape[-1] // grid
    whole = x[..., : side * grid, : side * grid]
    patches = F.unfold(whole, side, stride=side)[..., torch.randperm(grid * grid, generator=random)]
    y = F.fold(patches, whole.shape[-2:], side, stride=side)
    return F.interpolate(y, size=x.shape[-2:])


def _texture(x: Tensor) -> Tensor:
    s = x.shape[-1]
    part = x[..., s // 3 : s // 3 + max(s // 6, 2), s // 3 : s // 3 + max(s // 6, 2)]
    times = -(-s // part.shape[-1])
    return part.repeat(1, 1, times, times)[..., :s, :s]
