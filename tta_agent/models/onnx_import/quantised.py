"""Files in the QDQ format: weights kept as whole codes, values rounded to codes between the layers.

A weight is scale * (code - zero). The module computes with it as a float, and rounds the values between the layers
as the file does; gradients pass the rounding as if it were not there, and stop where it clips (the straight-through
estimator of Bengio, Léonard, Courville, arXiv 1308.3432). What changes a channel of a weight by a factor, as a
normalisation behind the layer does, is written back into the scale: the codes stay, and so nothing is rounded anew.
Biases are rounded to codes of 32 bits, whose scale follows that of the weight. Other changes of a weight are rounded
to codes again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from tta_agent.core.types import Array
from tta_agent.models.onnx_import.fused import Node
from tta_agent.models.onnx_import.operators import Number, register

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
TOLERANCE = (
    0.1  # of logits, in units of the largest: a value at the border of two codes may fall on either side
)
EXACT = 1e-5  # largest difference from a multiple of the weights, in units of the largest, that the scale alone takes
QUANTISED = {
    "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger",
    "com.microsoft.QLinearAdd", "com.microsoft.QGemm",
}  # fmt: skip
NO_GRADIENT = "nothing in it has a gradient"
FLOAT_FILE = "name the float file that it was made from, or quantise it in the QDQ format"
_SUFFIX = "_DequantizeLinear_Output"
_BY_CHANNEL = 13  # opset from which a scale may have one number for each channel
Items = Mapping[str, TensorProto]


@dataclass(frozen=True, slots=True)
class Codes:
    """A weight that is kept as codes.

    Attributes:
        codes, scale, zero: initializers; zero is "" where it is 0.
        axis: of the channels, each of which has its scale, where there are several.
        follows: weight that the scale of this bias is proportional to, by name.
    """

    codes: str
    scale: str
    zero: str
    axis: int
    follows: str | None = None

    def parts(self, items: Items) -> tuple[Array, Array, Array]:
        """Codes less zero, scale broadcast over them, and zero."""
        codes, scale = numpy_helper.to_array(items[self.codes]), numpy_helper.to_array(items[self.scale])
        zero = numpy_helper.to_array(items[self.zero]) if self.zero else np.zeros((), codes.dtype)
        return codes.astype(np.int64) - self._wide(zero, codes.ndim), self._wide(scale, codes.ndim), zero

    def values(self, items: Items) -> Array:
        """The weight as float32."""
        codes, scale, _ = self.parts(items)
        return np.asarray((codes * scale).astype(np.float32))

    def put(self, values: Array, items: Items) -> Array:
        """Write a weight back; the factor by which its scale has changed, broadcast over the channels."""
        codes, scale, zero = self.parts(items)
        was = self.values(items)
        axes = tuple(i for i in range(was.ndim) if scale.size == 1 or i != self.axis % was.ndim)
        inside = (was * was).sum(axes, keepdims=True)
        factor = np.where(
            inside > 0, (values * was).sum(axes, keepdims=True) / np.where(inside > 0, inside, 1), 1
        )
        if np.abs(values - factor * was).max() > EXACT * np.abs(values).max():
            factor, codes = self._rounded(values, scale, axes, items)
        if factor.min() <= 0:  # a scale is above 0
            codes, factor = codes * np.sign(factor), np.where(factor == 0, 1, np.abs(factor))
        self._put_codes(codes, zero, items)
        _replace(items[self.scale], scale * factor)
        return np.asarray(factor)

    def _rounded(
        self, values: Array, scale: Array, axes: tuple[int, ...], items: Items
    ) -> tuple[Array, Array]:
        """Factor of the scale by which the largest value has the largest code, and codes less zero."""
        _, _, zero = self.parts(items)
        largest = np.abs(values).max(axes, keepdims=True)
        factor = np.where(largest > 0, largest / (self._kind(items).max - int(zero.max())) / scale, 1)
        return factor, np.rint(values / (scale * factor))

    def _put_codes(self, codes: Array, zero: Array, items: Items) -> None:
        kind = self._kind(items)
        _replace(items[self.codes], np.clip(codes + self._wide(zero, codes.ndim), kind.min, kind.max))

    def _kind(self, items: Items) -> Any:
        return np.iinfo(helper.tensor_dtype_to_np_dtype(items[self.codes].data_type))

    def put_bias(self, values: Array, items: Items, factor: Array) -> None:
        """Write a bias back, whose scale follows that of its weight."""
        _, scale, _ = self.parts(items)
        if np.array_equal(values, self.values(items)) and (factor == 1).all():
            return
        scale = scale * (factor.ravel() if factor.size > 1 else factor.item())
        _replace(items[self.codes], np.clip(np.rint(values / scale), -(2**31), 2**31 - 1))
        _replace(items[self.scale], scale)

    def _wide(self, values: Array, ndim: int) -> Array:
        if values.size == 1:
            return values.reshape(())
        return values.reshape([-1 if i == self.axis % ndim else 1 for i in range(ndim)])


def put(values: Mapping[str, Array], codes: Mapping[str, Codes], items: Items) -> None:
    """Write weights back, and then biases, whose scales follow."""
    factors = {
        name: codes[name].put(value, items) for name, value in values.items() if not codes[name].follows
    }
    for name, value in values.items():
        if follows := codes[name].follows:
            codes[name].put_bias(value, items, factors.get(follows, np.ones(())))


def _replace(item: TensorProto, values: Array) -> None:
    kind = helper.tensor_dtype_to_np_dtype(item.data_type)
    item.CopyFrom(numpy_helper.from_array(values.astype(kind).reshape(tuple(item.dims)), item.name))


def by_channel(graph: onnx.GraphProto, opset: int) -> None:
    """Give weights of convolutions a scale for each channel, in place: a normalisation behind them has one."""
    items = {item.name: item for item in graph.initializer}
    makers = {node.output[0]: node for node in graph.node if node.op_type == DEQUANTIZE}
    for node in graph.node:
        if node.op_type != "Conv" or opset < _BY_CHANNEL:
            continue
        for source in (makers.get(name) for name in node.input[1:]):
            if source is not None and source.input[0] in items:
                _widen(source, items, items[source.input[0]].dims[0])


def _widen(node: onnx.NodeProto, items: Items, channels: int) -> None:
    for name in node.input[1:]:
        item = items.get(name)
        if item is None or max(item.dims, default=1) > 1:
            continue
        values = np.repeat(numpy_helper.to_array(item).ravel(), channels)
        item.CopyFrom(numpy_helper.from_array(values, name))
    kept = [a for a in node.attribute if a.name != "axis"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("axis", 0)])


def weights(graph: onnx.GraphProto) -> dict[str, Codes]:
    """Weights that are kept as codes, by the name of the value that the file turns them into."""
    held = {item.name for item in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type == DEQUANTIZE and held.issuperset(name for name in node.input if name):
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            zero = node.input[2] if len(node.input) > 2 else ""
            found[node.output[0]] = Codes(node.input[0], node.input[1], zero, axis)
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm") and len(node.input) > 2 and {*node.input[1:3]} <= found.keys():
            found[node.input[2]] = replace(found[node.input[2]], follows=node.input[1])
    return found


def names(codes: Mapping[str, Codes], items: Items) -> dict[str, str]:
    """Names of the weights before a tool kept them as codes, by the names of the values."""
    bare = {name: name.removesuffix(_SUFFIX) for name in codes}
    return {
        name: new if new not in items and list(bare.values()).count(new) == 1 else name
        for name, new in bare.items()
    }


def without(nodes: Iterable[Node], called: Mapping[str, str], items: Items) -> list[Node]:
    """The nodes but for those that turn codes into weights, which are called so; the others know their limits."""
    kept = []
    for node in nodes:
        if node.outputs[0] in called:
            continue
        attributes = {**node.attributes, **(_limits(node, items) if node.op == QUANTIZE else {})}
        inputs = tuple(called.get(name, name) for name in node.inputs)
        kept.append(Node(node.op, node.name, inputs, node.outputs, attributes))
    return kept


def _limits(node: Node, items: Items) -> dict[str, int]:
    """Least and largest code that a node rounds to."""
    zero = items.get(node.inputs[2]) if len(node.inputs) > 2 else None
    given = node.attributes.get("output_dtype") or TensorProto.UINT8
    kind = np.iinfo(helper.tensor_dtype_to_np_dtype(given if zero is None else zero.data_type))
    return {"low": int(kind.min), "high": int(kind.max)}


@register(QUANTIZE)
def quantize(
    x: Tensor, scale: Tensor | Number, zero: Tensor | Number = 0, *, low: int = 0, high: int = 255, axis: int = 1,
    block_size: int = 0, **_: int,
) -> Tensor:  # fmt: skip
    """Codes of values, as floats; gradients pass where nothing is clipped."""
    if block_size:
        raise NotImplementedError("block_size")
    by = _along(scale, x, axis)
    codes = x / by
    codes = codes + (codes.round() - codes).detach()
    return (codes + _along(zero, x, axis)).clamp(low, high)


@register(DEQUANTIZE)
def dequantize(
    x: Tensor,
    scale: Tensor | Number,
    zero: Tensor | Number = 0,
    *,
    axis: int = 1,
    block_size: int = 0,
    **_: int,
) -> Tensor:
    """Values of codes."""
    if block_size:
        raise NotImplementedError("block_size")
    return (x - _along(zero, x, axis)) * _along(scale, x, axis)


def _along(value: Tensor | Number, x: Tensor, axis: int) -> Tensor | Number:
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    return value.view([-1 if i == axis % x.dim() else 1 for i in range(x.dim())])
