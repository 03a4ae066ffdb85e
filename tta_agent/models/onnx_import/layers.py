"""Recognition of layers among the nodes: they become torch modules, which adapters look for, hook and train.

A layer is recognised by its weights: initializers, or views of them, one use each.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tta_agent.models.onnx_import.spatial import padding, widths
from tta_agent.models.onnx_import.values import Value, Weight

Make = Callable[..., nn.Module]
Inputs = tuple[Value | None, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """Recipe of a torch module on one input.

    Attributes:
        make: the module, its weights not filled in.
        tensors: the initializer of each of its parameters and buffers.
        x: the input.
        before, after: a function of the input (of the output) and its other arguments, where one is needed.
    """

    make: Callable[[], nn.Module]
    tensors: Mapping[str, Weight]
    x: Value
    before: tuple[Any, ...] = ()
    after: tuple[Any, ...] = ()

    def build(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """The module with its weights, inference mode."""
        module = self.make().to(next(weights[w.name].dtype for w in self.tensors.values()))
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
        with torch.no_grad():
            for leaf, weight in self.tensors.items():
                tensor = weights[weight.name]
                slot = getattr(module, leaf)
                slot.copy_((tensor.t() if weight.transposed else tensor).reshape(slot.shape))
        return module.eval()


def layer(make: Make, *args: Any, tensors: Mapping[str, Weight | None], x: Value, **options: Any) -> Layer:
    """Layer with the weights that are there; made without drawing random numbers."""
    there = {leaf: weight for leaf, weight in tensors.items() if weight is not None}
    return Layer(functools.partial(torch.nn.utils.skip_init, make, *args, **options), there, x)


def vector(value: Value | None, n: int) -> Weight | None:
    """Initializer of n values of which this is a view in their order, or None."""
    if value is None or value.weight is None or value.weight.transposed or value.shape.numel() != n:
        return None
    return value.weight


def nothing(value: Value | None, fill: float) -> bool:
    """Whether an input is left out, or known to be this number everywhere."""
    return value is None or (value.constant and bool((value.probes[0] == fill).all()))


def scale_and_shift(scale: Value | None, shift: Value | None, n: int) -> dict[str, Weight | None] | None:
    """Initializers of scale and shift, or neither where they do nothing; None where they are anything else."""
    if nothing(scale, 1.0) and nothing(shift, 0.0):
        return {}
    found = {"weight": vector(scale, n), "bias": vector(shift, n)}
    return found if all(found.values()) else None


def _conv(inputs: Inputs, attributes: Mapping[str, Any]) -> Layer | None:
    x, kernel, shift = (*inputs, None)[:3]
    if x is None or kernel is None or vector(kernel, kernel.shape.numel()) is None:
        return None
    n, outputs = len(kernel.shape) - 2, kernel.shape[0]
    bias = vector(shift, outputs)
    strides, dilations = (list(attributes.get(k) or [1] * n) for k in ("strides", "dilations"))
    pads = attributes.get("pads", ()), attributes.get("auto_pad", "NOTSET")
    begin, end = padding(x.probes[0], kernel.shape[2:], strides, dilations, *pads)
    if bias is None and not nothing(shift, 0.0):
        return None
    groups = attributes.get("group", 1)
    found = layer(
        (nn.Conv1d, nn.Conv2d, nn.Conv3d)[n - 1],
        kernel.shape[1] * groups,
        outputs,
        tuple(kernel.shape[2:]),
        tensors={"weight": kernel.weight, "bias": bias},
        x=x,
        stride=tuple(strides),
        padding=tuple(begin) if begin == end else 0,
        dilation=tuple(dilations),
        groups=groups,
        bias=bias is not None,
    )
    return found if begin == end else replace(found, before=(F.pad, widths(begin, end)))


def _batch_norm(inputs: Inputs, attributes: Mapping[str, Any]) -> Layer | None:
    x, scale, shift, mean, var = inputs[:5]
    if x is None or attributes.get("training_mode"):
        return None
    n = x.shape[1]
    affine = scale_and_shift(scale, shift, n)
    running = {"running_mean": vector(mean, n), "running_var": vector(var, n)}
    if affine is None or not all(running.values()):
        return None
    make = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 5: nn.BatchNorm3d}.get(len(x.shape), nn.BatchNorm2d)
    eps = attributes.get("epsilon", 1e-5)
    return layer(make, n, tensors=affine | running, x=x, eps=eps, affine=bool(affine))


def groups_norm(
    x: Value | None, groups: int | None, scale: Value | None, shift: Value | None, eps: float
) -> Layer | None:
    """GroupNorm; with a group for each channel, where `groups` is None, it is InstanceNorm."""
    if x is None:
        return None
    n = x.shape[1]
    affine = scale_and_shift(scale, shift, n)
    return layer(nn.GroupNorm, groups or n, n, tensors=affine, x=x, eps=eps) if affine else None


def _instance_norm(inputs: Inputs, attributes: Mapping[str, Any]) -> Layer | None:
    x, scale, shift = inputs
    return groups_norm(x, None, scale, shift, attributes.get("epsilon", 1e-5))


def _group_norm(inputs: Inputs, attributes: Mapping[str, Any]) -> Layer | None:
    x, scale, shift = inputs
    return groups_norm(x, attributes["num_groups"], scale, shift, attributes.get("epsilon", 1e-5))


def _layer_norm(inputs: Inputs, attributes: Mapping[str, Any]) -> Layer | None:
    x, scale, shift = (*inputs, None)[:3]
    if x is None or scale is None:
        return None
    sizes = list(x.shape[attributes.get("axis", -1) % len(x.shape) :])
    affine = scale_and_shift(scale, shift, math.prod(sizes))
    if shift is None:
        affine = {"weight": vector(scale, math.prod(sizes))}
    if not affine or affine["weight"] is None:
        return None
    eps = attributes.get("epsilon", 1e-5)
    return layer(nn.LayerNorm, sizes, tensors=affine, x=x, eps=eps, bias=shift is not None)


def _gemm(inputs: Inputs, attributes: Mapping[str, Any]) -> Layer | None:
    x, matrix, shift = (*inputs, None)[:3]
    plain = attributes.get("alpha", 1.0) == 1.0 == attributes.get("beta", 1.0)
    if not plain or attributes.get("transA") or matrix is None:
        return None
    return linear(x, matrix, shift, turned=not attributes.get("transB"))


def linear(
    x: Value | None, matrix: Value | None, shift: Value | None, *, turned: bool = True
) -> Layer | None:
    """Linear layer: x times a matrix [inputs, outputs] (its transpose, where not `turned`), plus shift [outputs]."""
    if x is None or matrix is None or matrix.weight is None or len(matrix.shape) != 2:
        return None
    weight = Weight(matrix.weight.name, matrix.weight.transposed != turned)
    inputs, outputs = matrix.shape if turned else (matrix.shape[1], matrix.shape[0])
    bias = vector(shift, outputs)
    if bias is None and not nothing(shift, 0.0):
        return None
    tensors = {"weight": weight, "bias": bias}
    return layer(nn.Linear, inputs, outputs, tensors=tensors, x=x, bias=bias is not None)


def _matmul(inputs: Inputs, attributes: Mapping[str, Any]) -> Layer | None:
    return linear(inputs[0], inputs[1], None)


_RECOGNISE = {
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "Gemm": _gemm,
    "MatMul": _matmul,
}


def recognise(op: str, inputs: Inputs, attributes: Mapping[str, Any]) -> Layer | None:
    """Layer of one node, or None."""
    found = _RECOGNISE.get(op)
    return found(inputs, attributes) if found else None
