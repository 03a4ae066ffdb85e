"""Tensors of a graph that stay in files beside it. They are mapped when they are read, and never part of a message.

A graph that is too large for one message, 2 GiB, keeps its large tensors where they are. A version of it has those
that have changed in its own message, and finds the others in the same files.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import (
    ExternalDataInfo,
    load_external_data_for_model,
    uses_external_data,
)

from tta_agent.core.types import Array

LARGE = 1024  # bytes; smaller ones stay in the graph, where ONNX Runtime looks for sizes and factors
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_CODED = {"QuantizeLinear", "DequantizeLinear"}
_PORTION = 1 << 24  # values that are compared at once


def files(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the files that hold tensors of the graph, each once.

    Raises:
        ValueError: one is not below the graph's folder.
    """
    found = dict.fromkeys(_location(item) for item in proto.graph.initializer if uses_external_data(item))
    return tuple(found)


def load_rest(proto: onnx.ModelProto, folder: Path) -> None:
    """Read every tensor that is in a file into the graph, but large floats."""
    coded = {name for node in proto.graph.node if node.op_type in _CODED for name in node.input}
    apart = [item for item in proto.graph.initializer if _stays(item) and item.name not in coded]
    for item in apart:
        mapped(item, folder)  # the file is there, and long enough
        item.data_location = TensorProto.DEFAULT
    load_external_data_for_model(proto, str(folder))
    for item in apart:
        item.data_location = TensorProto.EXTERNAL


def _stays(item: TensorProto) -> bool:
    return uses_external_data(item) and item.data_type in _FLOATS and _bytes(item) >= LARGE


def _bytes(item: TensorProto) -> int:
    kind: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(item.data_type)
    return int(math.prod(item.dims) * kind.itemsize)


def _location(item: TensorProto) -> str:
    name = ExternalDataInfo(item).location
    if not name or name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise ValueError(f"tensor {item.name!r} is in the file {name!r}; expected one beside the graph")
    return name


def mapped(item: TensorProto, folder: Path) -> Array:
    """Values of a tensor in a file, which are read as they are used.

    Raises:
        ValueError, OSError: the file is not there, or too short.
    """
    found = ExternalDataInfo(item)
    path = folder / _location(item)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"tensor {item.name!r} is in the file {path.resolve()}; expected one beside the graph"
        )
    if found.length not in (None, size := _bytes(item)):
        raise ValueError(f"tensor {item.name!r} has {found.length} bytes in {path.name}; expected {size}")
    kind = helper.tensor_dtype_to_np_dtype(item.data_type)
    return np.memmap(path, kind, "r", int(found.offset or 0), tuple(item.dims))


def values(item: TensorProto, folder: Path) -> Array:
    """Values of a tensor, wherever it is."""
    return mapped(item, folder) if uses_external_data(item) else np.asarray(numpy_helper.to_array(item))


def holds(item: TensorProto, value: Array, stored: Callable[[Array], Array], folder: Path) -> bool:
    """Whether a tensor in a file has these values, compared in portions as `stored` makes them."""
    there = mapped(item, folder)
    rows = max(1, _PORTION // max(1, math.prod(there.shape[1:])))
    return all(
        np.array_equal(_bits(there[at : at + rows]), _bits(stored(value[at : at + rows])))
        for at in range(0, len(there), rows)
    )


def squares(value: Array, other: Array | None = None) -> float:
    """Sum of the squares of the values, or of their differences from others, added up in portions."""
    flat, less = value.reshape(-1), None if other is None else other.reshape(-1)
    total = 0.0
    for at in range(0, flat.size, _PORTION):
        part = flat[at : at + _PORTION].astype(np.float64)
        total += float(np.square(part if less is None else less[at : at + _PORTION] - part).sum())
    return total


def _bits(value: Array) -> Array:
    """Values as whole numbers: also those that are not equal to themselves can be compared."""
    return np.ascontiguousarray(value).view(f"u{value.dtype.itemsize}")


def place(item: TensorProto, file: str, at: int, size: int) -> None:
    """Have a tensor stand in a file."""
    item.ClearField("raw_data")
    del item.external_data[:]
    item.data_location = TensorProto.EXTERNAL
    for key, value in (("location", file), ("offset", str(at)), ("length", str(size))):
        entry = item.external_data.add()
        entry.key, entry.value = key, value


def renamed(item: TensorProto, name: str) -> TensorProto:
    """Copy of a tensor under another name; one that stands in a file stays there."""
    if not uses_external_data(item):
        return numpy_helper.from_array(numpy_helper.to_array(item), name)
    copy = TensorProto()
    copy.CopyFrom(item)
    copy.name = name
    return copy


def fill(item: TensorProto, data: bytes) -> None:
    """Have a tensor stand in the graph, with these bytes."""
    if uses_external_data(item):
        del item.external_data[:]
        item.ClearField("data_location")
    item.raw_data = data
