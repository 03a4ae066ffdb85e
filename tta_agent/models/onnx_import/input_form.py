"""Form of a file's input by what its first nodes do with it: range of whole numbers, channels first or last."""

from __future__ import annotations

import onnx
import torch

from tta_agent.models.onnx_import.dtypes import INTEGERS

_PASSES_ON = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
_BY_VALUE = {"Cast", "Identity", "Add", "Sub", "Mul", "Div", "Clip", "QuantizeLinear", "DequantizeLinear"}
_TO_FIRST = [0, 3, 1, 2]


def input_range(graph: onnx.GraphProto, takes: onnx.ValueInfoProto) -> tuple[int, int] | None:
    """Least and largest number that the input takes; None: any float.

    Of an input by which rows of a table are looked up, the numbers of the rows.
    """
    number = takes.type.tensor_type.elem_type
    if number not in INTEGERS:
        return None
    held = {item.name: item.dims for item in graph.initializer}
    ids, rows = {takes.name}, []
    for node in graph.node:
        if node.op_type in _PASSES_ON and node.input[0] in ids:
            ids.update(node.output)
        if node.op_type == "Gather" and node.input[1] in ids and held.get(node.input[0]):
            rows.append(held[node.input[0]][0])
    limits = torch.iinfo(INTEGERS[number])
    wide = limits.bits > 8
    return (0, min(rows) - 1) if rows else (0, 1) if wide else (limits.min, limits.max)


def channels_last(graph: onnx.GraphProto, takes: onnx.ValueInfoProto) -> bool:
    """Whether samples are [height, width, channels]: the input is turned before anything looks at its places."""
    sizes = [d.dim_value for d in takes.type.tensor_type.shape.dim]
    if len(sizes) != 4:
        return False
    same, users = {takes.name}, list[onnx.NodeProto]()
    for node in graph.node:
        if not same.intersection(node.input):
            continue
        if node.op_type in _BY_VALUE:
            same.update(node.output)
        elif node.op_type not in ("Shape", "Size"):
            users.append(node)
    return bool(users) and all(_turns(node, sizes[-1]) for node in users)


def _turns(node: onnx.NodeProto, last: int) -> bool:
    perms = [list(a.ints) for a in node.attribute if a.name == "perm"]
    return (node.op_type == "Transpose" and perms == [_TO_FIRST]) or (node.op_type == "Reshape" and last == 1)
