"""Sizes in a file that no model has: refused before anything of that size is made, here or in ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import onnx
import onnx.shape_inference

from tta_agent.core.errors import ConfigError
from tta_agent.models import external_data, message_size

MOST = 1 << 30  # values of one tensor, open sizes not counted
APART = "save it with its weights in a file beside it: onnx.save(..., save_as_external_data=True)"
SMALLER = "name an export in half precision, or the float file that it was made from"
_BITS: Mapping[int, int] = {
    onnx.TensorProto.FLOAT: 32, onnx.TensorProto.DOUBLE: 64, onnx.TensorProto.FLOAT16: 16, onnx.TensorProto.INT64: 64,
    onnx.TensorProto.INT32: 32, onnx.TensorProto.INT8: 8, onnx.TensorProto.UINT8: 8, onnx.TensorProto.BOOL: 8,
}  # fmt: skip


def refuse_absurd(proto: onnx.ModelProto, path: Path) -> None:
    """Look at every shape that the file says, and at those that follow from them.

    Raises:
        ConfigError: a tensor is too large, has a negative size, or holds other data than its shape says.
    """
    graph = proto.graph
    for node in graph.node:  # shape inference makes a list as long as this
        parts = [a.i for a in node.attribute if a.name == "num_outputs"]
        if parts and parts[0] != len(node.output):
            said = f"node {node.name!r} ({node.op_type}) says {parts[0]} parts and has {len(node.output)} outputs"
            raise ConfigError(f"TTA_MODEL__ONNX={path}: {said}")
    for item in graph.initializer:
        _refuse(item.name, item.dims, path)
        _refuse_data(item, path)
    for value in (*graph.input, *graph.output, *graph.value_info):
        _refuse(value.name, _sizes(value), path)
    for value in _inferred(proto):
        _refuse(value.name, _sizes(value), path)


def load_data(proto: onnx.ModelProto, path: Path) -> None:
    """Read the tensors that are in files beside it: all of them, or all but large floats where these are too many.

    Raises:
        ConfigError: the others are too many for one message.
        ValueError, OSError: a file is not there, too short, or not beside it.
    """
    size = sum((path.parent / name).stat().st_size for name in external_data.files(proto))
    if message_size.size_of(proto) + size <= message_size.LARGEST:
        onnx.load_external_data_for_model(proto, str(path.parent))
        return
    external_data.load_rest(proto, path.parent)
    if (size := message_size.size_of(proto)) > message_size.LARGEST:
        what = "the tensors that are no large floats have"
        raise ConfigError(f"TTA_MODEL__ONNX={path}: {message_size.too_large(what, size)};\n{SMALLER}")


def refuse_too_long(path: Path) -> None:
    """Raise ConfigError where a file is larger than a message can be."""
    if (size := path.stat().st_size) > message_size.MESSAGE:
        raise ConfigError(f"TTA_MODEL__ONNX={path}: {message_size.too_large('it has', size)};\n{APART}")


def _refuse_data(item: onnx.TensorProto, path: Path) -> None:
    bits = _BITS.get(item.data_type)
    if bits and item.HasField("raw_data") and math.prod(item.dims) * bits != 8 * len(item.raw_data):
        told = f"tensor {item.name!r} has shape {list(item.dims)!s:.100} and {len(item.raw_data)} bytes"
        raise ConfigError(f"TTA_MODEL__ONNX={path}: {told}; expected {math.prod(item.dims) * bits // 8}")


def _inferred(proto: onnx.ModelProto) -> Iterable[onnx.ValueInfoProto]:
    try:
        found = onnx.shape_inference.infer_shapes(proto)
    except Exception:
        return ()
    return list(found.graph.value_info)


def _sizes(value: onnx.ValueInfoProto) -> Iterator[int]:
    return (d.dim_value for d in value.type.tensor_type.shape.dim if d.HasField("dim_value"))


def _refuse(name: str, sizes: Iterable[int], path: Path) -> None:
    sizes = list(sizes)
    known = [size for size in sizes if size > 0]
    if math.prod(known) > MOST or any(size < -1 for size in sizes):
        raise ConfigError(
            f"TTA_MODEL__ONNX={path}: tensor {name!r} has shape {sizes!s:.100}; expected at most {MOST:.0e} "
            "values, and no negative size"
        )
