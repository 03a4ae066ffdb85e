"""Weight delta of a version: the initializers that differ from version 0's, and composition of the full graph.

A swap changes tensors, not structure. So a version can be kept as the tensors that it changed (safetensors), and its
full graph is version 0's with these put in, byte for byte: ONNX has no map fields, so that equal messages are
serialised equally, and `changed` tries it before anything is thrown away.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx.external_data_helper import uses_external_data
from safetensors.numpy import load, save

from tta_agent.core.errors import GraphError, RegistryError
from tta_agent.core.types import Array
from tta_agent.models import external_data

KINDS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "<f4",
    onnx.TensorProto.DOUBLE: "<f8",
    onnx.TensorProto.FLOAT16: "<f2",
    onnx.TensorProto.INT64: "<i8",
    onnx.TensorProto.INT32: "<i4",
}  # what safetensors can hold as numpy arrays, and models have

_FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
)

_VALUES = ("raw_data", "float_data", "double_data", "int32_data", "external_data", "data_location")
_UNREADABLE = "skeleton or tensors cannot be read"


def changed(skeleton: bytes, graph: bytes) -> bytes | None:
    """Initializers of `graph` that differ from those of `skeleton`, as a safetensors file.

    None where the two differ in more than that, so that `compose` would not give the same bytes.
    """
    try:
        old, new = _slots(_parse(skeleton)), _slots(_parse(graph))
    except DecodeError:
        return None
    other = {name: slot for name, slot in new.items() if name not in old or slot != old[name]}
    if not all(slot.data_type in KINDS and slot.raw_data and name for name, slot in other.items()):
        return None
    tensors = bytes(save({name: _array(slot) for name, slot in other.items()}))
    return tensors if _gives(skeleton, tensors, graph) else None


def compose(skeleton: bytes, tensors: bytes) -> bytes:
    """The full graph: `skeleton` with the `tensors` of a safetensors file in their places, serialised.

    Raises:
        RegistryError: the skeleton has no such place, or one of the two is damaged.
    """
    return with_tensors(skeleton, read(tensors))


def read(tensors: bytes) -> dict[str, Array]:
    """Tensors of a safetensors file by name; raises RegistryError where it is damaged."""
    try:
        return dict(load(tensors))
    except Exception as error:  # safetensors raises its own kinds
        raise RegistryError(f"{_UNREADABLE}: {error}") from None


def with_tensors(skeleton: bytes, tensors: Mapping[str, Array]) -> bytes:
    """`skeleton` with these tensors in their places, serialised; raises as `compose` does."""
    try:
        proto = _parse(skeleton)
        slots = _slots(proto)
        for name, tensor in tensors.items():
            external_data.fill(slots[name], tensor.tobytes())
    except KeyError as missing:
        raise RegistryError(f"the skeleton has no tensor {missing}") from None
    except Exception as error:  # and protobuf its own
        raise RegistryError(f"{_UNREADABLE}: {error}") from None
    return bytes(proto.SerializeToString())


def same_structure(one: bytes, other: bytes) -> bool:
    """Whether two graphs differ in values of float tensors at most: same nodes, names, shapes and types."""
    try:
        first, second = (_without_values(_parse(graph)) for graph in (one, other))
    except DecodeError:
        return False
    return bool(first == second)


def _without_values(proto: onnx.ModelProto) -> onnx.GraphProto:
    graph = proto.graph
    for slot in (*graph.initializer, *(held.t for node in graph.node for held in node.attribute)):
        if slot.data_type in _FLOATS:  # integers are shapes and axes, and so part of the structure
            for values in _VALUES:
                slot.ClearField(values)
    for node in graph.node:  # what an exporter says beside it
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    return graph


def put(slot: onnx.TensorProto, value: Array) -> None:
    """Put a tensor into its place, where it differs: most are as they were, and faster compared than written.

    Raises:
        GraphError: it has another shape.
    """
    if tuple(slot.dims) != value.shape:
        raise GraphError(f"tensor {slot.name!r} has shape {value.shape}, the graph expects {list(slot.dims)}")
    if uses_external_data(slot):
        external_data.fill(slot, value.tobytes())
    elif not slot.HasField("raw_data"):
        slot.CopyFrom(onnx.numpy_helper.from_array(value, slot.name))
    elif slot.raw_data != (data := value.tobytes()):
        slot.raw_data = data


def sizes(tensors: bytes) -> dict[str, int]:
    """Size in bytes of each tensor of a safetensors file."""
    return {name: tensor.nbytes for name, tensor in sorted(load(tensors).items())}


def distances(before: Path, after: Path) -> list[tuple[str, int, float, float]]:
    """Distances of two graphs by layer: (layer, tensors that differ, |b - a|, |a|), the furthest first.

    The graphs, which are files, have one structure. A layer is the part of its tensors' names before the last dot;
    norms are Euclidean, over all its float tensors.
    """
    old, new = _floats(before), _floats(after)
    layers: dict[str, list[float]] = {}
    for name in sorted(old.keys() & new.keys()):
        sums = layers.setdefault(name.rpartition(".")[0] or name, [0, 0.0, 0.0])
        value = external_data.values(old[name], before.parent)
        if old[name] != new[name] and old[name].dims == new[name].dims:
            apart = external_data.squares(value, external_data.values(new[name], after.parent))
            sums[0] += apart > 0
            sums[1] += apart
        sums[2] += external_data.squares(value)
    rows = [(layer, int(n), apart**0.5, size**0.5) for layer, (n, apart, size) in layers.items() if n]
    return sorted(rows, key=lambda row: -row[2])


def _gives(skeleton: bytes, tensors: bytes, graph: bytes) -> bool:
    try:
        return compose(skeleton, tensors) == graph
    except RegistryError:
        return False


def _parse(graph: bytes) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    proto.ParseFromString(graph)
    return proto


def _slots(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {slot.name: slot for slot in proto.graph.initializer}


def _array(slot: onnx.TensorProto) -> Array:
    return np.frombuffer(slot.raw_data, KINDS[slot.data_type]).reshape(tuple(slot.dims))


def _floats(graph: Path) -> Mapping[str, onnx.TensorProto]:
    try:
        slots = _slots(_parse(graph.read_bytes()))
    except DecodeError:
        raise RegistryError("a graph cannot be read as ONNX, so there are no tensors to compare") from None
    return {name: slot for name, slot in slots.items() if slot.data_type in _FLOATS}
