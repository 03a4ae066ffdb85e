"""Operators on shapes: reshape, slice, gather, pad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_agent.models.onnx_import.operators import Number, Sizes, register

_FAR = 1 << 31  # exporters write the largest integers for "from the begin" and "to the end"


@register("Shape", asks_only=True)
def shape(x: Tensor, start: int = 0, end: int | None = None) -> Tensor:
    """Sizes of a tensor; computed while the graph is built, never when it runs."""
    return torch.tensor(x.shape[start:end], dtype=torch.int64)


@register("Size", asks_only=True)
def size(x: Tensor) -> Tensor:
    """Number of values; as `shape`."""
    return torch.tensor(x.numel())


@register("Reshape", 1)
def reshape(x: Tensor, sizes: Sizes, allowzero: int = 0) -> Tensor:
    """Reshape; -1 takes the values that are left, 0 keeps the size."""
    return x.reshape([x.shape[i] if n == 0 and not allowzero else n for i, n in enumerate(sizes)])


@register("Flatten")
def flatten(x: Tensor, axis: int = 1) -> Tensor:
    """Flatten to two axes: those before `axis`, and the others."""
    return x.flatten(axis) if axis == 1 else x.reshape(_product(x.shape[:axis]), -1)


def _product(sizes: Sequence[int]) -> int:
    product = 1
    for n in sizes:
        product *= n
    return product


@register("Transpose")
def transpose(x: Tensor, perm: Sizes | None = None) -> Tensor:
    """Permute the axes, by default backwards."""
    return x.permute(list(perm) if perm is not None else list(range(x.dim()))[::-1])


@register("TransposeLast")
def transpose_last(x: Tensor) -> Tensor:
    """Exchange the last two axes; a part of fused operators, and no operator of the standard."""
    return x.transpose(-1, -2)


@register("Squeeze", 1)
def squeeze(x: Tensor, given: Sizes | None = None, *, axes: Sizes | None = None) -> Tensor:
    """Remove axes of size 1."""
    dims = given if given is not None else axes
    return x.squeeze() if dims is None else x.squeeze(list(dims))


@register("Unsqueeze", 1)
def unsqueeze(x: Tensor, given: Sizes | int | None = None, *, axes: Sizes = ()) -> Tensor:
    """Insert axes of size 1 at these places of the result."""
    dims = [given] if isinstance(given, int) else list(axes if given is None else given)
    for axis in sorted(a % (x.dim() + len(dims)) for a in dims):
        x = x.unsqueeze(axis)
    return x


@register("Concat")
def concat(*tensors: Tensor, axis: int) -> Tensor:
    """Concatenate along an axis."""
    return torch.cat(tensors, axis)


@register("Split", 1)
def split(
    x: Tensor, given: Sizes | None = None, *, axis: int = 0, split: Sizes | None = None, num_outputs: int = 1
) -> tuple[Tensor, ...]:
    """Split into parts of these sizes, or into so many, the last one smaller."""
    sizes = given if given is not None else split
    if sizes is not None:
        return torch.split(x, list(sizes), axis)
    return torch.split(x, -(-x.shape[axis] // num_outputs), axis)


@register("Slice", 1, 2, 3, 4)
def slice_(
    x: Tensor, starts: Sizes, ends: Sizes, axes: Sizes | None = None, steps: Sizes | None = None
) -> Tensor:
    """Slice from start to end along the axes; a step of -1 reverses."""
    parts = [slice(None)] * x.dim()
    turned = []
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = axes[i] if axes is not None else i
        step = steps[i] if steps is not None else 1
        if step < 0:
            turned.append(axis)
            n = x.shape[axis]
            first, last = (min(v + n if v < 0 else v, n - 1) for v in (start, max(end, -n - 1)))
            start, end, step = n - 1 - first, n - 1 - last, -step
        parts[axis] = slice(start if start > -_FAR else None, end if end < _FAR else None, step)
    return (x.flip(turned) if turned else x)[tuple(parts)]


@register("Gather")
def gather(x: Tensor, index: Tensor | int, axis: int = 0) -> Tensor:
    """Gather entries along an axis; the axes of the index take its place."""
    if not isinstance(index, Tensor):
        return x.select(axis, index)
    return x[(slice(None),) * (axis % x.dim()) + (index,)]


@register("GatherElements")
def gather_elements(x: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    """Gather one entry for each place of the index."""
    return torch.gather(x, axis, torch.where(index < 0, index + x.shape[axis], index))


@register("GatherND")
def gather_nd(x: Tensor, index: Tensor, batch_dims: int = 0) -> Tensor:
    """Gather entries at places; the last axis of the index holds a place."""
    if batch_dims:
        raise NotImplementedError("batch_dims")
    return x[index.unbind(-1)]


@register("ScatterElements")
def scatter_elements(
    x: Tensor, index: Tensor, values: Tensor, axis: int = 0, reduction: str = "none"
) -> Tensor:
    """A copy with other values at the places of the index along an axis."""
    if reduction != "none":
        raise NotImplementedError(f"reduction {reduction}")
    return x.scatter(axis, torch.where(index < 0, index + x.shape[axis], index), values)


@register("ScatterND")
def scatter_nd(x: Tensor, index: Tensor, values: Tensor, reduction: str = "none") -> Tensor:
    """A copy with other values at places; the last axis of the index holds a place."""
    if reduction != "none":
        raise NotImplementedError(f"reduction {reduction}")
    return x.index_put(index.unbind(-1), values)


@register("Trilu", 1)
def triangle(x: Tensor, k: int | Sizes = 0, *, upper: int = 1) -> Tensor:
    """Upper or lower triangle of matrices, the rest 0."""
    diagonal = k if isinstance(k, int) else k[0]
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


@register("OneHot", 1, 2)
def one_hot(index: Tensor, depth: int | Sizes, values: Sequence[Number], *, axis: int = -1) -> Tensor:
    """Second of two values at the place of the index, the first at all others."""
    count = depth if isinstance(depth, int) else depth[0]
    off, on = values
    hit = F.one_hot(torch.remainder(index.long(), count), count).movedim(-1, axis)
    return hit * (on - off) + off


@register("Expand", 1)
def expand(x: Tensor, sizes: Sizes) -> Tensor:
    """Broadcast with a tensor of these sizes."""
    mine = (1,) * (len(sizes) - x.dim()) + tuple(x.shape)
    wanted = (1,) * (x.dim() - len(sizes)) + tuple(sizes)
    return x.expand([b if a == 1 else a for a, b in zip(mine, wanted, strict=True)])


@register("Tile", 1)
def tile(x: Tensor, repeats: Sizes) -> Tensor:
    """Repeat so often along each axis."""
    return x.repeat(list(repeats))


@register("Pad", 1, 2, 3)
def pad(
    x: Tensor, given: Sizes | None = None, value: Number | None = None, axes: Sizes | None = None, *,
    mode: str = "constant", pads: Sizes = (), **old: Any,
) -> Tensor:  # fmt: skip
    """Pad the begin of each axis, then the end of each, by these numbers; negative ones cut."""
    widths = list(given if given is not None else pads)
    n = len(widths) // 2
    around = {a % x.dim(): (widths[i], widths[n + i]) for i, a in enumerate(axes or range(n))}
    if not any(widths):
        return x
    flat = [width for a in sorted(range(x.dim()), reverse=True) for width in around.get(a, (0, 0))]
    if mode == "constant":
        return F.pad(x, flat, value=old.get("value", 0.0) if value is None else value)
    while len(flat) > 2 and not any(flat[-2:]):
        del flat[-2:]
    return F.pad(x, flat, mode={"edge": "replicate", "wrap": "circular"}.get(mode, mode))


@register("Range", 0, 1, 2, makes=True)
def arange(start: Number, limit: Number, delta: Number, *, like: Tensor) -> Tensor:
    """Range of numbers from start to before limit."""
    return torch.arange(start, limit, delta, device=like.device)


@register("ConstantOfShape", 0, makes=True)
def constant_of_shape(sizes: Sizes, *, like: Tensor, value: Tensor | None = None) -> Tensor:
    """Tensor of one value everywhere, by default the float 0."""
    dtype = torch.float32 if value is None else value.dtype
    return torch.full(tuple(sizes), 0 if value is None else value.item(), dtype=dtype, device=like.device)
