"""Operators that sum over axes: reductions, softmax, attention."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_agent.models.onnx_import.operators import Function, Sizes, register

register("MatMul")(torch.matmul)


@register("Softmax")
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Softmax along one axis (before opset 13 along this axis and all after it: parity tells where that matters)."""
    return torch.softmax(x, axis)


@register("LogSoftmax")
def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Logarithm of the softmax, along the same axes."""
    return torch.log_softmax(x, axis)


@register("LpNormalization")
def lp_normalize(x: Tensor, axis: int = -1, p: int = 2) -> Tensor:
    """Normalise by the p-norm along the axis."""
    return F.normalize(x, p=p, dim=axis)


@register("Einsum")
def einsum(*tensors: Tensor, equation: str) -> Tensor:
    """Einstein's sum."""
    return torch.einsum(equation, *tensors)


def _reduction(function: Function) -> Function:
    def call(
        x: Tensor, given: Sizes | None = None, *, axes: Sizes = (), keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:  # fmt: skip
        dims = list(given if given is not None else axes)
        if not dims and noop_with_empty_axes:
            return x
        answer: Tensor = function(x, dims or list(range(x.dim())), bool(keepdims))
        return answer

    return call


_REDUCTIONS: dict[str, Function] = {
    "ReduceMean": torch.mean,
    "ReduceSum": torch.sum,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceL1": lambda x, dims, keep: x.abs().sum(dims, keep),
    "ReduceSumSquare": lambda x, dims, keep: x.square().sum(dims, keep),
    "ReduceLogSum": lambda x, dims, keep: x.sum(dims, keep).log(),
    "ReduceLogSumExp": torch.logsumexp,
}
for _name, _function in _REDUCTIONS.items():
    register(_name, 1)(_reduction(_function))


@register("ReduceL2", 1)
def _l2(x: Tensor, given: Sizes | None = None, *, axes: Sizes = (), keepdims: int = 1, **_: int) -> Tensor:
    dims = list(given if given is not None else axes)
    answer: Tensor = torch.linalg.vector_norm(x, dim=dims or None, keepdim=bool(keepdims))
    return answer


@register("ReduceProd", 1)
def _product(
    x: Tensor, given: Sizes | None = None, *, axes: Sizes = (), keepdims: int = 1, **_: int
) -> Tensor:
    for axis in sorted((a % x.dim() for a in (given or axes or range(x.dim()))), reverse=True):
        x = x.prod(axis, keepdim=bool(keepdims))
    return x


def _best(function: Function) -> Function:
    def call(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
        if select_last_index:
            raise NotImplementedError("select_last_index")
        answer: Tensor = function(x, axis, bool(keepdims))
        return answer

    return call


register("ArgMax")(_best(torch.argmax))
register("ArgMin")(_best(torch.argmin))


@register("TopK", 1)
def top_k(
    x: Tensor, k: Sizes | int, *, axis: int = -1, largest: int = 1, sorted: int = 1
) -> tuple[Tensor, Tensor]:
    """Largest (smallest) values along an axis, and their places."""
    count = k if isinstance(k, int) else k[0]
    values, places = x.sort(dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)


@register("CumSum", 1)
def cumulative_sum(x: Tensor, axis: int | Sizes, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Sum of all before and this one along an axis."""
    dim = axis if isinstance(axis, int) else axis[0]
    x = x.flip(dim) if reverse else x
    total = x.cumsum(dim) - (x if exclusive else 0)
    return total.flip(dim) if reverse else total


@register("MeanVarianceNormalization")
def mean_variance_norm(x: Tensor, *, axes: Sizes = (0, 2, 3)) -> Tensor:
    """Values less their mean over the axes, over their deviation."""
    centred = x - x.mean(list(axes), keepdim=True)
    return centred / (centred.square().mean(list(axes), keepdim=True).sqrt() + 1e-9)


@register("Attention")
def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, scale: float | None = None,
    is_causal: int = 0, q_num_heads: int = 0, kv_num_heads: int = 0, softcap: float = 0.0,
    qk_matmul_output_mode: int = 0, softmax_precision: int = 0,
) -> Tensor:  # fmt: skip
    """Attention softmax(Q K^T scale + mask) V for each head; scale is 1 / sqrt(size of a head) where not given.

    Heads are an axis of their own, [B, heads, tokens, size], or side by side, [B, tokens, heads * size].
    """
    if softcap or softmax_precision not in (0, 1):
        raise NotImplementedError("softcap or softmax_precision")
    apart = query.dim() == 4
    if not apart:
        query = _heads(query, q_num_heads)
        key, value = _heads(key, kv_num_heads), _heads(value, kv_num_heads)
    more: dict[str, Any] = {"enable_gqa": True} if query.shape[1] != key.shape[1] else {}
    answer = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=bool(is_causal), scale=scale, **more
    )
    return answer if apart else answer.transpose(1, 2).flatten(2)


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)
