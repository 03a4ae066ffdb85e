"""Sizes in a file that no model has: refused before anything of that size is made, here or in ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import onnx
import onnx.shape_inference

from tta_agent.core.errors import ConfigError

MOST = 1 << 30  # values of one tensor, open sizes not counted
LARGEST = (1 << 31) - (1 << 22)  # bytes of weights in one ONNX file, which cannot be larger than 2 GiB
TOO_LARGE = "its weights have %.2f GiB, and a version, which is one ONNX file, holds %.2f GiB at most"
SMALLER = "name an export in half precision, or serve a smaller model"
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


def refuse_too_large(proto: onnx.ModelProto, path: Path) -> None:
    """Raise ConfigError where the weights, in files of their own or not, do not fit into one ONNX file."""
    size = sum(len(item.raw_data) for item in proto.graph.initializer)
    if size > LARGEST:
        raise ConfigError(
            f"TTA_MODEL__ONNX={path}: {TOO_LARGE % (size / 2**30, LARGEST / 2**30)};\n{SMALLER}"
        )


def _refuse_data(item: onnx.TensorProto, path: Path) -> None:
    bits = _BITS.get(item.data_type)
    if bits and item.HasField("raw_data") and math.prod(item.dims) * bits != 8 * len(item.raw_data):
        told = f"tensor {item.name!r} has shape {list(item.dims)!s:.100} and {len(item.raw_data)} bytes"
        raise ConfigError(f"TTA_MODEL__ONNX={path}: {told}; expected {math.prod(item.dims) * bits // 8}")


def _inferred(proto: onnx.ModelProto) -> Iterable[onnx.ValueInfoProto]:
    try:
        found = onnx.shape_inference.infer_shapes(proto)
    except Exception:  # also a file above 2 GB: it is refused by what fails, if anything does
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
