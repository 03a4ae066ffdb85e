"""Normal form of a graph, made in place: each layer has weights of its own, and the batch axis is free.

Undone is what exporters leave behind:

- initializers that happen to be equal are merged, or copied by `Identity`. A layer whose scale is another layer's
  scale cannot be adapted by itself: each layer gets a copy under a name of its own. A tensor that is shared in any
  other way (one table of biases for all blocks) stays shared;
- floats in `Constant` nodes become initializers;
- a batch axis of fixed size becomes a free one; whether the graph follows is proved later, by its answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tta_agent.models import external_data
from tta_agent.models.onnx_import.dtypes import FLOATS

Uses = dict[str, list[tuple[onnx.NodeProto, int]]]

_LAYERS = {  # inputs that are a layer's weights
    "Conv": {1, 2},
    "FusedConv": {1, 2},
    "Gemm": {1, 2},
    "FusedGemm": {1, 2},
    "FusedMatMul": {1},
    "MatMul": {1},
    "BatchNormalization": {1, 2, 3, 4},
    "InstanceNormalization": {1, 2},
    "GroupNormalization": {1, 2},
    "LayerNormalization": {1, 2},
    "SkipLayerNormalization": {2, 3},
}
_SCALE_OR_SHIFT = {"Add", "Mul"}
_VIEWS = {"Transpose", "Reshape", "Unsqueeze", "Squeeze", "Cast", "CastLike"}
_ASKS_ONLY = {("Shape", 0), ("Size", 0), ("CastLike", 1)}  # for shape or type: no use of the values
_LEAVES = {"weight", "bias", "running_mean", "running_var"}
_FOREVER = -50.0  # an attention mask adds this or less: the probability is 0 then


def free_batch(graph: onnx.GraphProto, takes: onnx.ValueInfoProto) -> int | None:
    """Open the batch axis; shapes that repeat its size follow."""
    axis = takes.type.tensor_type.shape.dim[0]
    size = axis.dim_value
    for value in (takes, *graph.output):
        sizes = value.type.tensor_type.shape.dim
        if sizes and (sizes[0].dim_value == size != 0 or sizes[0].dim_value < 0):
            sizes[0].dim_param = "batch"
    if size <= 0:  # some exporters write -1 for a free axis
        return None
    del graph.value_info[:]
    held = {item.name for item in graph.initializer}
    shapes = {n.input[1] for n in graph.node if n.op_type == "Reshape" and n.input[0] not in held}
    for item in graph.initializer:
        if item.name in shapes:
            item.CopyFrom(_open(item, size))
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in shapes and node.attribute[0].name == "value":
            node.attribute[0].t.CopyFrom(_open(node.attribute[0].t, size))
    return int(size)


def _open(shape: onnx.TensorProto, size: int) -> onnx.TensorProto:
    sizes = numpy_helper.to_array(shape).copy()
    if sizes.ndim == 1 and sizes.size and sizes[0] == size:
        sizes[0] = 0 if (sizes == -1).any() else -1  # 0 copies the size that comes in, -1 takes what is left
    return numpy_helper.from_array(sizes, shape.name)


def in_order(graph: onnx.GraphProto) -> None:
    """Put every node behind those that it reads; some converters append nodes, and ONNX Runtime takes any order."""
    makers = {name: node for node in graph.node for name in node.output if name}
    waiting, done, placed = list(reversed(graph.node)), list[onnx.NodeProto](), set[str]()
    opened = set[
        str
    ]()  # whose inputs have been asked for: met again, the graph has a circle, or they are there
    while waiting:
        node = waiting[-1]
        key = node.output[0] if node.output else ""
        missing = [makers[name] for name in reads(node) if name in makers and name not in placed]
        if missing and key not in opened:
            opened.add(key)
            waiting.extend(reversed(missing))
            continue
        waiting.pop()
        if key not in placed:
            placed.update(node.output)
            done.append(node)
    _replace_nodes(graph, done)


def reads(node: onnx.NodeProto) -> list[str]:
    """Values that a node takes, its subgraphs included."""
    inner = [part for a in node.attribute if a.HasField("g") for part in a.g.node]
    return [*filter(None, node.input), *(name for part in inner for name in reads(part))]


def lift_constants(graph: onnx.GraphProto) -> None:
    """Turn `Identity` of an initializer, floats in a Constant node, and filled weights into initializers."""
    held = {item.name: item for item in graph.initializer}
    found = uses(graph)
    answers = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        tensor = None
        if node.op_type == "Identity" and node.output[0] not in answers:
            tensor = held.get(node.input[0])
        elif node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = node.attribute[0].t if adaptable(node.attribute[0].t, Path()) else None
        elif node.op_type == "ConstantOfShape" and node.input[0] in held:
            tensor = _filled(node, held[node.input[0]], found)
        if tensor is None:
            kept.append(node)
            continue
        copy = external_data.renamed(tensor, node.output[0])
        held[copy.name] = copy
        graph.initializer.append(copy)
    _replace_nodes(graph, kept)
    used = {name for node in graph.node for name in reads(node)}
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name not in used:
            del graph.initializer[i]


def _filled(node: onnx.NodeProto, sizes: onnx.TensorProto, found: Uses) -> onnx.TensorProto | None:
    """Weight of a layer that is one number everywhere, as files without real weights have it."""
    shape = numpy_helper.to_array(sizes).tolist()
    layers = any(_is_layer(found, len(shape) == 1, *user) for user in found.get(node.output[0], []))
    value = next((numpy_helper.to_array(a.t) for a in node.attribute if a.name == "value"), None)
    if not layers or value is None or value.dtype != np.float32:
        return None
    return numpy_helper.from_array(np.full(shape, value.item(), np.float32))


def adaptable(item: onnx.TensorProto, folder: Path) -> bool:
    """Initializers that may learn: floats, but no numbers (unless a layer's, by name) and no attention masks.

    Args:
        folder: of the file.
    """
    if item.data_type not in FLOATS or not item.dims:
        return False
    values = external_data.values(item, folder)
    if values.size < 2:
        return item.name.rpartition(".")[2] in _LEAVES
    least = values.min()
    return not (least <= _FOREVER and bool(((values == 0) | (values == least)).all()))


def own_weights(graph: onnx.GraphProto, weights: set[str]) -> set[str]:
    """Give layers that share weights copies of their own, in place; the names of the copies."""
    tensors = {item.name: item for item in graph.initializer if item.name in weights}
    vectors = {name for name, item in tensors.items() if max(item.dims) == _numel(item)}
    _own_views(graph, vectors, set(tensors))
    found = uses(graph)
    copies = set()
    for name, item in tensors.items():
        layers = [user for user in found.get(name, []) if _is_layer(found, name in vectors, *user)]
        for k, (node, i) in enumerate(layers[1:], 1):
            copy = onnx.TensorProto()
            copy.CopyFrom(item)
            copy.name = _free(f"{name}_{k}", found)
            node.input[i] = copy.name
            graph.initializer.append(copy)
            copies.add(copy.name)
    return copies


def uses(graph: onnx.GraphProto) -> Uses:
    """Consumers of each value, and the input that it is."""
    found: Uses = {}
    for node in graph.node:
        for i, name in enumerate(node.input):
            if (node.op_type, i) not in _ASKS_ONLY:
                found.setdefault(name, []).append((node, i))
    return found


def _replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Let these be the nodes, in this order; they may be the graph's own."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _own_views(graph: onnx.GraphProto, vectors: set[str], weights: set[str]) -> None:
    """A view (transposed, reshaped) that several layers take becomes one view a layer; last ones first."""
    views = _views(graph, weights)
    nodes: list[onnx.NodeProto] = []
    found = uses(graph)
    for node in reversed(graph.node):
        if node.output[0] in views:
            vector = views[node.output[0]] in vectors
            users = found.get(node.output[0], [])
            layers = [user for user in users if _is_layer(found, vector, *user)]
            for k, (user, i) in enumerate(layers[1:], 1):
                clone = onnx.NodeProto()
                clone.CopyFrom(node)
                clone.name = f"{node.name}_{k}"
                clone.output[0] = user.input[i] = _free(f"{node.output[0]}_{k}", found)
                found.setdefault(node.input[0], []).append((clone, 0))
                found[clone.output[0]] = [(user, i)]
                users.remove((user, i))
                nodes.append(clone)
        nodes.append(node)
    _replace_nodes(graph, reversed(nodes))


def _views(graph: onnx.GraphProto, weights: set[str]) -> dict[str, str]:
    """Values that are a weight in another form, and that weight."""
    views: dict[str, str] = {}
    for node in graph.node:
        if node.op_type in _VIEWS and (node.input[0] in weights or node.input[0] in views):
            views[node.output[0]] = views.get(node.input[0], node.input[0])
    return views


def _is_layer(found: Uses, vector: bool, node: onnx.NodeProto, i: int) -> bool:
    if node.op_type in _VIEWS and i == 0:
        users = found.get(node.output[0], [])
        return any(_is_layer(found, vector, *user) for user in users)
    return i in _LAYERS.get(node.op_type, ()) or (vector and node.op_type in _SCALE_OR_SHIFT)


def _free(name: str, taken: Uses) -> str:
    while name in taken:
        name += "_"
    return name


def _numel(item: onnx.TensorProto) -> int:
    count = 1
    for size in item.dims:
        count *= size
    return count
