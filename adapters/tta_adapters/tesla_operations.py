"""The fourteen operations that TeSLA's adversary composes, batched, with gradients to their strengths.

Images [n, channels, H, W] in 0 .. 1, strengths [n]; each image has its own. They are those of AutoAugment (Cubuk
et al., CVPR 2019, arXiv 1805.09501) in the ranges of TeSLA (Tomar et al., CVPR 2023, arXiv 2303.09870). What has no
derivative has the straight-through one: d out / d strength = d out / d in = 1. Beyond the border images are mirrored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_adapters.colour import gray

Apply = Callable[[Tensor, Tensor], Tensor]
SOFT = ((1.0, 1.0, 1.0), (1.0, 5.0, 1.0), (1.0, 1.0, 1.0))  # over 13: what sharpness 0 is


@dataclass(frozen=True, slots=True)
class Operation:
    """A change of images, and the strengths at magnitude 0 and 1. `signed`: either way, by a coin."""

    apply: Apply
    low: float
    high: float
    signed: bool = False


def shear_x(x: Tensor, v: Tensor) -> Tensor:
    """Rows move by v times their height; the image is 2 by 2."""
    return _mapped(x, v, (0, 1, 0, 0, 0, 0))


def shear_y(x: Tensor, v: Tensor) -> Tensor:
    """Columns move by v times their place."""
    return _mapped(x, v, (0, 0, 0, 1, 0, 0))


def translate_x(x: Tensor, v: Tensor) -> Tensor:
    """By v of half the width."""
    return _mapped(x, v, (0, 0, 1, 0, 0, 0))


def translate_y(x: Tensor, v: Tensor) -> Tensor:
    """By v of half the height."""
    return _mapped(x, v, (0, 0, 0, 0, 0, 1))


def rotate(x: Tensor, v: Tensor) -> Tensor:
    """By v radians."""
    turned = v.cos()[:, None] * x.new_tensor((1, 0, 0, 0, 1, 0)) + v.sin()[:, None] * x.new_tensor(
        (0, 1, 0, -1, 0, 0)
    )
    return _sampled(x, turned)


def contrast(x: Tensor, v: Tensor) -> Tensor:
    """0 is the image's mean, 1 the image."""
    return _blend(x.mean((1, 2, 3), keepdim=True), x, v)


def colour(x: Tensor, v: Tensor) -> Tensor:
    """0 is gray, 1 the image. Without three channels there is no colour to change."""
    return _blend(gray(x), x, v) if x.shape[1] == 3 else x


def brightness(x: Tensor, v: Tensor) -> Tensor:
    """0 is black, 1 the image."""
    return _blend(torch.zeros_like(x), x, v)


def sharpness(x: Tensor, v: Tensor) -> Tensor:
    """0 is softened, 1 the image."""
    kernel = (x.new_tensor(SOFT) / 13).expand(x.shape[1], 1, 3, 3)
    return _blend(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=x.shape[1]), x, v)


def autocontrast(x: Tensor, v: Tensor) -> Tensor:
    """Every channel stretched to 0 .. 1; flat ones stay."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    stretched = (x - low) / (high - low).clamp_min(torch.finfo(x.dtype).tiny)
    return _straight(torch.where(high > low, stretched, x), x, v)


def invert(x: Tensor, v: Tensor) -> Tensor:
    """The negative."""
    return 1 - x + _zero(v)


def equalize(x: Tensor, v: Tensor) -> Tensor:
    """Every channel's 256 levels spread as evenly as whole levels allow (the rule of Pillow's ImageOps)."""
    level = _levels(x).flatten(2)
    count = torch.zeros(*level.shape[:2], 256, dtype=torch.int64, device=x.device)
    count.scatter_add_(2, level, torch.ones_like(level))
    below = count.cumsum(2) - count
    step = (level.shape[2] - count.gather(2, level.amax(2, keepdim=True))) // 255
    table = ((step // 2 + below) // step.clamp_min(1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=x.device))
    return _straight(table.gather(2, level).view_as(x).to(x.dtype) / 255, x, v)


def solarize(x: Tensor, v: Tensor) -> Tensor:
    """The negative of what is at least v."""
    return torch.where(x < v.view(-1, 1, 1, 1), x, 1 - x) + _zero(v)


def posterize(x: Tensor, v: Tensor) -> Tensor:
    """The highest v of 8 bits."""
    unit = torch.exp2(8 - v.detach().floor()).view(-1, 1, 1, 1)
    return _straight((_levels(x) / unit).floor() * unit / 255, x, v)


TURN = math.pi / 6
OPERATIONS: tuple[Operation, ...] = (
    Operation(shear_x, -0.3, 0.3, signed=True),
    Operation(shear_y, -0.3, 0.3, signed=True),
    Operation(translate_x, -0.45, 0.45, signed=True),
    Operation(translate_y, -0.45, 0.45, signed=True),
    Operation(contrast, 0.1, 1.9),
    Operation(colour, 0.1, 1.9),
    Operation(brightness, 0.1, 1.9),
    Operation(sharpness, 0.1, 1.9),
    Operation(rotate, -TURN, TURN, signed=True),
    Operation(autocontrast, 0, 1),
    Operation(invert, 0, 1),
    Operation(equalize, 0, 1),
    Operation(solarize, 0, 1),
    Operation(posterize, 4, 8),
)
# The authors' range of angles begins and ends at -30 degrees: only the coin turns the image.
LITERAL = tuple(Operation(rotate, -TURN, -TURN, True) if o.apply is rotate else o for o in OPERATIONS)


def applied(operation: Operation, x: Tensor, magnitude: Tensor, sign: Tensor) -> Tensor:
    """One operation on images [n, ...] at magnitudes [n] in 0 .. 1; `sign` [n] is 1 or -1."""
    v = operation.low + magnitude * (operation.high - operation.low)
    return operation.apply(x.clamp(0, 1), v * sign if operation.signed else v).clamp(0, 1)


def _mapped(x: Tensor, v: Tensor, by: tuple[float, ...]) -> Tensor:
    """Moved by v times one entry of the 2 by 3 matrix."""
    return _sampled(x, x.new_tensor((1, 0, 0, 0, 1, 0)) + v[:, None] * x.new_tensor(by))


def _sampled(x: Tensor, matrix: Tensor) -> Tensor:
    grid = F.affine_grid(matrix.view(-1, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def _blend(zero: Tensor, one: Tensor, v: Tensor) -> Tensor:
    return zero + v.view(-1, 1, 1, 1) * (one - zero)


def _levels(x: Tensor) -> Tensor:
    """0 .. 255, rounded: what was a whole level before it was standardised is the same level again."""
    return (255 * x.detach()).round().long().clamp(0, 255)


def _straight(out: Tensor, x: Tensor, v: Tensor) -> Tensor:
    return out.detach() + (x - x.detach()) + _zero(v)


def _zero(v: Tensor) -> Tensor:
    """0, with a derivative of 1."""
    return (v - v.detach()).view(-1, 1, 1, 1)
