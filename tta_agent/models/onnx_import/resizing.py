"""Operators that change the resolution: Resize and Upsample, blocks to channels and back, ConvTranspose."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_agent.models.onnx_import.operators import Sizes, register
from tta_agent.models.onnx_import.spatial import Window

_COORDINATES: Mapping[str, Callable[[Tensor, float, int, int], Tensor]] = {  # (place, scale, before, after)
    "half_pixel": lambda i, s, n, m: (i + 0.5) / s - 0.5,
    "pytorch_half_pixel": lambda i, s, n, m: (i + 0.5) / s - 0.5 if m > 1 else 0 * i,
    "half_pixel_symmetric": lambda i, s, n, m: n / 2 * (1 - m / (n * s)) + (i + 0.5) / s - 0.5,
    "asymmetric": lambda i, s, n, m: i / s,
    "align_corners": lambda i, s, n, m: i * (n - 1) / (n * s - 1) if n * s > 1 else 0 * i,
}
_NEAREST: Mapping[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda x: torch.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: torch.floor(x + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


@register("Resize", 1, 2, 3)
def resize(
    x: Tensor, roi: Sizes | None = None, scales: Sequence[float] | None = None, sizes: Sizes | None = None, *,
    axes: Sizes = (), mode: str = "nearest", coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor", cubic_coeff_a: float = -0.75, exclude_outside: int = 0,
    antialias: int = 0, keep_aspect_ratio_policy: str = "stretch", **_: Any,
) -> Tensor:  # fmt: skip
    """Resize along each axis by a scale or to a size; `_` is the value outside, of a mode that is refused."""
    known = coordinate_transformation_mode in _COORDINATES and keep_aspect_ratio_policy == "stretch"
    if antialias or not known or mode not in ("nearest", "linear", "cubic"):
        raise NotImplementedError(f"mode {mode}, {coordinate_transformation_mode}, antialias {antialias}")
    for i, axis in enumerate(axes or range(x.dim())):
        n = x.shape[axis]
        m = sizes[i] if sizes else math.floor(n * (scales or [1.0] * x.dim())[i])
        if m == n:
            continue
        scale = scales[i] if scales and not sizes else m / n
        places = torch.arange(m, dtype=torch.float32, device=x.device)
        at = _COORDINATES[coordinate_transformation_mode](places, scale, n, m)
        if mode == "nearest":
            x = x.index_select(axis, _NEAREST[nearest_mode](at).clamp(0, n - 1).long())
            continue
        weights = _weights(at, n, mode, cubic_coeff_a, exclude_outside=bool(exclude_outside)).to(x.dtype)
        x = (x.movedim(axis, -1) @ weights.t()).movedim(-1, axis)
    return x


def _weights(at: Tensor, n: int, mode: str, a: float, *, exclude_outside: bool) -> Tensor:
    """Share [m, n] of each of n places in what stands at each of m coordinates."""
    low = at.floor()
    reach = range(-1, 3) if mode == "cubic" else range(2)
    total = torch.zeros(len(at), n, device=at.device)
    for step in reach:
        place = low + step
        share = _cubic((at - place).abs(), a) if mode == "cubic" else (1 - (at - place).abs()).clamp_min(0)
        if exclude_outside:
            share = torch.where((place < 0) | (place > n - 1), 0.0, share)
        total = total + share[:, None] * F.one_hot(place.clamp(0, n - 1).long(), n)
    return total / total.sum(1, keepdim=True) if exclude_outside else total


def _cubic(d: Tensor, a: float) -> Tensor:
    near = ((a + 2) * d - (a + 3)) * d**2 + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


@register("Upsample", 1)
def upsample(
    x: Tensor, given: Sequence[float] | None = None, *, scales: Sequence[float] = (), mode: str = "nearest",
) -> Tensor:  # fmt: skip
    """Upsample by a scale along each axis, from the begin of each."""
    factors = list(scales if given is None else given)
    options = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return resize(x, None, factors, mode=mode.replace("bilinear", "linear"), **options)  # type: ignore[no-any-return]


@register("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Channels to blocks of places, [B, C b b, H, W] -> [B, C, H b, W b]."""
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    b, c, h, w = x.shape
    parts = x.reshape(b, blocksize, blocksize, c // blocksize**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(b, c // blocksize**2, h * blocksize, w * blocksize)


@register("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    """Blocks of places to channels, [B, C, H b, W b] -> [B, b b C, H, W]."""
    b, c, h, w = x.shape
    n = blocksize
    parts = x.reshape(b, c, h // n, n, w // n, n).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(b, c * n * n, h // n, w // n)


@register("GridSample")
def grid_sample(
    x: Tensor, grid: Tensor, *, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: int = 0
) -> Tensor:
    """Values at the places of a grid [B, H, W, 2] of numbers in -1 .. 1."""
    how = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return F.grid_sample(x, grid, how, padding_mode, bool(align_corners))


@register("ConvTranspose")
def conv_transpose(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, strides: Window = (), dilations: Window = (),
    pads: Window = (), output_padding: Window = (), output_shape: Window = (), auto_pad: str = "NOTSET",
    group: int = 1, **_: Any,
) -> Tensor:  # fmt: skip
    """Transposed convolution over any number of spatial axes; weights [inputs, outputs / group, ...]."""
    n = weight.dim() - 2
    if auto_pad not in ("NOTSET", "VALID") or output_shape:
        raise NotImplementedError("auto_pad or output_shape")
    begin, end = list(pads or [0] * 2 * n)[:n], list(pads or [0] * 2 * n)[n:]
    more = list(output_padding or [0] * n)
    function: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[n - 1]
    y: Tensor = function(
        x, weight, bias, list(strides or [1] * n), [0] * n, more, group, list(dilations or [1] * n)
    )
    cut = [slice(b, size - e) for b, e, size in zip(begin, end, y.shape[2:], strict=True)]
    return y[(slice(None), slice(None), *cut)]
