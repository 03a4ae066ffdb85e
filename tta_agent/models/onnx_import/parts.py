"""Layers that were exported in parts, recognised at their last one, an Add.

Linear      x W + b
GroupNorm   reshape(InstanceNorm(reshape(x, [batch, groups, -1]))) * scale + shift
LayerNorm   (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * scale + shift
affine      x * scale + shift, one number for each channel, behind a layer: what is left of a BatchNorm in some files
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from tta_agent.models.onnx_import import layers
from tta_agent.models.onnx_import.layers import Layer
from tta_agent.models.onnx_import.values import Made, Value
from tta_agent.models.site_layers import ChannelAffine

_PRODUCTS = {"Conv", "Gemm", "MatMul"}


def whole(made: Made, uses: Mapping[str, int], weights: Mapping[str, Tensor]) -> Layer | None:
    """Layer that ends at this node, or None. `uses` is the number of consumers of each value."""
    if made.op != "Add":
        return None
    rest, shift = _last_weight(made)
    if rest is None or rest.made is None:
        return None
    if rest.made.op == "MatMul":
        x, matrix = rest.made.inputs
        vector = shift is not None and shift.shape[-1] == shift.shape.numel()
        return layers.linear(x, matrix, shift) if vector and uses[rest.name] == 1 else None
    inner, scale = _last_weight(rest.made) if rest.made.op == "Mul" else (None, None)
    if inner is None or scale is None or shift is None:
        return None
    found = _group_norm(inner, scale, shift, weights) or _layer_norm(inner, scale, shift)
    return found or (_affine(inner, scale, shift) if uses[rest.name] == 1 else None)


def _last_weight(made: Made) -> tuple[Value | None, Value | None]:
    """Of two inputs the one that is computed, and the one that is a weight."""
    a, b = made.inputs
    if a is not None and a.weight is not None:
        a, b = b, a
    return (a, b) if a and b and a.weight is None and b.weight is not None else (None, None)


def _source(value: Value | None, op: str) -> tuple[Value, ...]:
    """The inputs of the node that made this value, if it is this operator; else nothing."""
    if value is None or value.made is None or value.made.op != op:
        return ()
    return tuple(v for v in value.made.inputs if v is not None)


def _group_norm(inner: Value, scale: Value, shift: Value, weights: Mapping[str, Tensor]) -> Layer | None:
    normal = next(iter(_source(inner, "Reshape")), None)
    grouped, *ones_zeros = _source(normal, "InstanceNormalization") or (None,)
    x = next(iter(_source(grouped, "Reshape")), None)
    if x is None or grouped is None or normal is None or normal.made is None:
        return None
    plain = all(_filled(v, fill, weights) for v, fill in zip(ones_zeros, (1.0, 0.0), strict=True))
    if not plain or x.shape != inner.shape or grouped.shape[0] != x.shape[0]:
        return None
    if not _along(scale, x, 1) or not _along(shift, x, 1):
        return None
    eps = normal.made.attributes.get("epsilon", 1e-5)
    return layers.groups_norm(x, grouped.shape[1], scale, shift, eps)


def _affine(x: Value, scale: Value, shift: Value) -> Layer | None:
    """Scale and shift of the channels, on axis 1 or of a map with the channels last; not of the model's input."""
    axes = [i for i in ({1, 3} if len(x.shape) == 4 else {1}) if _along(scale, x, i) and _along(shift, x, i)]
    if not axes or not _behind_a_layer(x):
        return None
    tensors = {
        "weight": layers.vector(scale, scale.shape.numel()),
        "bias": layers.vector(shift, shift.shape.numel()),
    }
    if None in tensors.values():
        return None
    found = layers.layer(ChannelAffine, x.shape[axes[0]], tensors=tensors, x=x)
    if axes[0] == 1:
        return found
    return replace(found, before=(torch.movedim, -1, 1), after=(torch.movedim, 1, -1))


def _behind_a_layer(value: Value) -> bool:
    """Whether a convolution or a product comes before; a BatchNorm in between has a scale of its own."""
    made = value.made
    while made is not None and made.op != "BatchNormalization":
        if made.op in _PRODUCTS:
            return True
        first = next(
            (v for v in made.inputs if v is not None and v.weight is None and v.made is not None), None
        )
        made = first.made if first else None
    return False


def _filled(value: Value, fill: float, weights: Mapping[str, Tensor]) -> bool:
    if value.weight is not None:
        return bool((weights[value.weight.name] == fill).all())
    return layers.nothing(value, fill)


def _along(value: Value, x: Value, axis: int) -> bool:
    """Whether it has one number for each place of this axis of x, and is broadcast over the others."""
    sizes = (1,) * (len(x.shape) - len(value.shape)) + tuple(value.shape)
    wanted = tuple(n if i == axis else 1 for i, n in enumerate(x.shape))
    return sizes == wanted


def _layer_norm(inner: Value, scale: Value, shift: Value) -> Layer | None:
    centred, root = _source(inner, "Div") or (None, None)
    inside = next(iter(_source(root, "Sqrt")), None)
    variance, eps = _number_last(_source(inside, "Add"))
    square = next(iter(_source(variance, "ReduceMean")), None)
    x, mean = _source(centred, "Sub") or (None, None)
    if x is None or eps is None or not _is_square(square, centred) or not _same(mean, x, variance):
        return None
    axis = _axis(mean)
    if axis is None or not _along(scale, x, axis) or not _along(shift, x, axis):
        return None
    tensors = {"weight": scale.weight, "bias": shift.weight}
    found = layers.layer(nn.LayerNorm, [x.shape[axis]], tensors=tensors, x=x, eps=eps)
    if axis == len(x.shape) - 1:
        return found
    return replace(found, before=(torch.movedim, axis, -1), after=(torch.movedim, -1, axis))


def _number_last(inputs: tuple[Value, ...]) -> tuple[Value | None, float | None]:
    if len(inputs) != 2:
        return None, None
    a, b = inputs if inputs[1].known else (inputs[1], inputs[0])
    return (a, float(b.probes[0])) if b.constant and b.shape.numel() == 1 else (None, None)


def _is_square(square: Value | None, centred: Value | None) -> bool:
    """Its square by Pow or Mul; exporters may write the difference down twice."""
    if square is None or square.made is None or centred is None:
        return False
    inputs = square.made.inputs
    if square.made.op == "Pow":
        return _twice(inputs[0], centred) and layers.nothing(inputs[1], 2.0)
    return square.made.op == "Mul" and all(_twice(v, centred) for v in inputs)


def _twice(one: Value | None, other: Value) -> bool:
    return one is other or (one is not None and _source(one, "Sub") == _source(other, "Sub") != ())


def _same(mean: Value | None, x: Value, variance: Value | None) -> bool:
    """Whether mean and variance are of x, over the same axis."""
    of_x = mean is not None and _source(mean, "ReduceMean")[:1] == (x,)
    return of_x and _axis(mean) is not None and _axis(mean) == _axis(variance)


def _axis(mean: Value | None) -> int | None:
    """The one axis that it is a mean over, 1 or the last; None otherwise."""
    if mean is None or mean.made is None or not mean.made.attributes.get("keepdims", 1):
        return None
    given = mean.made.inputs[1] if len(mean.made.inputs) > 1 else None
    axes = list(mean.made.attributes.get("axes", ())) if given is None else given.probes[0].tolist()
    rank = len(mean.shape)
    if len(axes) != 1 or axes[0] % rank not in (1, rank - 1):
        return None
    return int(axes[0] % rank)
