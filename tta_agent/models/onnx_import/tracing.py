"""Tracing of one node while the graph is built: its results for two batches, and views of initializers among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tta_agent.models.onnx_import.fused import Node
from tta_agent.models.onnx_import.operators import Operator
from tta_agent.models.onnx_import.values import Made, Value, Weight, numbers

Inputs = tuple[Value | None, ...]
_VIEWS = {"Reshape", "Unsqueeze", "Squeeze", "Flatten"}
_SAME = {"Identity", "Dropout"}
_CASTS = {"Cast", "CastLike"}


def probe(op: Operator, inputs: Inputs, attributes: Mapping[str, Any], i: int) -> tuple[Tensor, ...]:
    """Result of the operator for the first (0) or the second (1) of the two batches."""
    real = op.asks_only or all(value.known for value in inputs if value)
    taken = [_taken(value, position in op.host, real, i) for position, value in enumerate(inputs)]
    options = {**attributes, "like": torch.empty(0)} if op.makes else attributes
    answer = op.call(*taken, **options)
    return answer if isinstance(answer, tuple) else (answer,)


def _taken(value: Value | None, host: bool, real: bool, i: int) -> Any:
    if value is None:
        return None
    tensor = value.probes[i]
    if host:
        numbers(value)  # refuses what depends on the data
        return tensor.tolist()
    if real or not value.known:
        return tensor
    return tensor.to("meta") if tensor.dim() else tensor.item()


def explicit(node: Node, inputs: Inputs) -> Mapping[str, Any]:
    """Attributes with the axes that an operator without them would look for at run time."""
    x = inputs[0] if inputs else None
    if node.op == "Squeeze" and x and len(inputs) < 2 and "axes" not in node.attributes:
        return {"axes": [i for i, n in enumerate(x.shape) if n == 1]}
    return node.attributes


def unchanged(op: str, inputs: Inputs, attributes: Mapping[str, Any]) -> bool:
    """Whether the node returns its first input unchanged."""
    if op in _CASTS:
        x, *like = inputs
        to = like[0].probes[0].dtype if like and like[0] else attributes.get("to")
        return x is not None and x.probes[0].dtype == to
    return op in _SAME


def view(made: Made, result: Tensor) -> Weight | None:
    """Initializer of which the result is a view, or None."""
    x = made.inputs[0] if made.inputs else None
    if x is None or x.weight is None:
        return None
    if made.op in _VIEWS:
        return None if x.weight.transposed and result.shape != x.shape else x.weight
    if made.op == "Transpose":
        perm = list(made.attributes.get("perm") or range(result.dim())[::-1])
        if perm == sorted(perm):
            return x.weight
        return Weight(x.weight.name, not x.weight.transposed) if perm == [1, 0] else None
    return None


def constant(attributes: Mapping[str, Any]) -> Tensor:
    """Value of a Constant node."""
    value = next(iter(attributes.values()))
    return value if isinstance(value, Tensor) else torch.tensor(value)


def parts(x: Value, sizes: Any, axis: int) -> list[int]:
    """Sizes of the parts of SplitToSequence, from one size for all or from all of them."""
    if isinstance(sizes, list):
        return sizes
    n = x.shape[axis]
    return [min(sizes, n - start) for start in range(0, n, sizes)]
