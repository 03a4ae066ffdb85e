"""Operators on spatial axes and normalisations, as functions. `layers` makes modules of those that hold weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_agent.models.onnx_import.operators import Number, register

Window = Sequence[int]


def padding(
    x: Tensor, kernel: Window, strides: Window, dilations: Window, pads: Window, auto_pad: str
) -> tuple[list[int], list[int]]:
    """Padding at the begin and at the end of each spatial axis."""
    n = len(kernel)
    if not auto_pad.startswith("SAME"):
        given = list(pads or [0] * 2 * n) if auto_pad == "NOTSET" else [0] * 2 * n
        return given[:n], given[n:]
    begin, end = [], []
    for size, k, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begin.append(small if auto_pad == "SAME_UPPER" else large)
        end.append(large if auto_pad == "SAME_UPPER" else small)
    return begin, end


def widths(begin: Window, end: Window) -> list[int]:
    """Padding in the order of torch: the last axis first."""
    pairs = list(zip(begin, end, strict=True))
    return [width for pair in reversed(pairs) for width in pair]


@register("Conv")
def conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, strides: Window = (), dilations: Window = (),
    pads: Window = (), auto_pad: str = "NOTSET", group: int = 1, **_: Any,
) -> Tensor:  # fmt: skip
    """Convolution over any number of spatial axes."""
    kernel = weight.shape[2:]
    strides, dilations = strides or [1] * len(kernel), dilations or [1] * len(kernel)
    begin, end = padding(x, kernel, strides, dilations, pads, auto_pad)
    if begin != end:
        x, begin = F.pad(x, widths(begin, end)), [0] * len(kernel)
    function: Any = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    answer: Tensor = function(x, weight, bias, list(strides), begin, list(dilations), group)
    return answer


def _window(
    x: Tensor, kernel: Window, options: dict[str, Any]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Strides and dilations, and what is added at the begin and at the end of each spatial axis."""
    strides, dilations = (list(options.get(name) or [1] * len(kernel)) for name in ("strides", "dilations"))
    auto_pad = options.get("auto_pad", "NOTSET")
    begin, end = padding(x, kernel, strides, dilations, options.get("pads", ()), auto_pad)
    return strides, dilations, begin, end


def _fits(kernel: Window, begin: Window, end: Window) -> bool:
    """Whether torch's pooling can pad so itself."""
    return begin == end and all(2 * p <= k for p, k in zip(begin, kernel, strict=True))


@register("MaxPool")
def max_pool(x: Tensor, *, kernel_shape: Window, **options: Any) -> Tensor:
    """Maximum of each window."""
    strides, dilations, begin, end = _window(x, kernel_shape, options)
    if not _fits(kernel_shape, begin, end):
        x, begin = F.pad(x, widths(begin, end), value=float("-inf")), [0] * len(kernel_shape)
    function: Any = getattr(F, f"max_pool{len(kernel_shape)}d")
    ceil = bool(options.get("ceil_mode", 0))
    answer: Tensor = function(x, list(kernel_shape), strides, begin, dilations, ceil_mode=ceil)
    return answer


@register("AveragePool")
def average_pool(x: Tensor, *, kernel_shape: Window, count_include_pad: int = 0, **options: Any) -> Tensor:
    """Mean of each window; padding counts as 0, or not at all."""
    strides, dilations, begin, end = _window(x, kernel_shape, options)
    if set(dilations) != {1}:
        raise NotImplementedError("dilations")
    pool: Any = getattr(F, f"avg_pool{len(kernel_shape)}d")
    more = {"ceil_mode": bool(options.get("ceil_mode", 0)), "count_include_pad": bool(count_include_pad)}
    if _fits(kernel_shape, begin, end):
        means: Tensor = pool(x, list(kernel_shape), strides, begin, **more)
        return means
    around = widths(begin, end)
    means = pool(F.pad(x, around), list(kernel_shape), strides, **more)
    if count_include_pad:
        return means
    counted: Tensor = pool(F.pad(torch.ones_like(x), around), list(kernel_shape), strides, **more)
    return means / counted


@register("GlobalAveragePool")
def global_average(x: Tensor) -> Tensor:
    """Mean over all spatial axes, which stay with size 1."""
    return x.mean(list(range(2, x.dim())), keepdim=True)


@register("GlobalLpPool")
def global_lp(x: Tensor, p: int = 2) -> Tensor:
    """p-norm over all spatial axes, which stay with size 1."""
    norm: Tensor = torch.linalg.vector_norm(x, p, list(range(2, x.dim())), keepdim=True)
    return norm


@register("GlobalMaxPool")
def global_max(x: Tensor) -> Tensor:
    """Maximum over all spatial axes, which stay with size 1."""
    return x.amax(list(range(2, x.dim())), keepdim=True)


@register("LRN")
def local_response_norm(
    x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    """Local response normalisation over `size` neighbouring channels."""
    if size % 2 == 0:
        raise NotImplementedError("an even size")
    return F.local_response_norm(x, size, alpha, beta, bias)


@register("Gemm")
def gemm(
    a: Tensor, b: Tensor, c: Tensor | Number | None = None, *, alpha: float = 1.0, beta: float = 1.0,
    transA: int = 0, transB: int = 0,
) -> Tensor:  # fmt: skip
    """General matrix product, alpha A B + beta C."""
    product = (a.t() if transA else a) @ (b.t() if transB else b)
    product = product if alpha == 1.0 else product * alpha
    return product if c is None else product + (c if beta == 1.0 else c * beta)


@register("BatchNormalization")
def batch_norm(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, epsilon: float = 1e-5,
    training_mode: int = 0, **_: Any,
) -> Tensor:  # fmt: skip
    """Batch normalisation by given statistics, which may be computed: gradients flow into them."""
    if training_mode:
        raise NotImplementedError("training_mode")
    sizes = [1, -1, *[1] * (x.dim() - 2)]
    factor = scale * torch.rsqrt(var + epsilon)
    return x * factor.view(sizes) + (bias - mean * factor).view(sizes)


@register("InstanceNormalization")
def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Instance normalisation: as many groups as channels."""
    return F.group_norm(x, x.shape[1], scale, bias, epsilon)


@register("GroupNormalization")
def group_norm(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Group normalisation; scale and shift for each channel, or (before opset 21) for each group."""
    if len(scale) != x.shape[1]:
        scale, bias = (t.repeat_interleave(x.shape[1] // num_groups) for t in (scale, bias))
    return F.group_norm(x, num_groups, scale, bias, epsilon)


@register("RMSNormalization")
@register("SimplifiedLayerNormalization")
def rms_norm(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Root mean square normalisation over all axes from `axis` on."""
    return F.rms_norm(x, list(x.shape[axis % x.dim() :]), None, epsilon) * scale


@register("LayerNormalization")
def layer_norm(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:  # fmt: skip
    """Layer normalisation over all axes from `axis` on."""
    sizes = list(x.shape[axis % x.dim() :])
    normal = F.layer_norm(x, sizes, None, None, epsilon) * scale
    return normal if bias is None else normal + bias
