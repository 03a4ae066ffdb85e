"""Types of numbers in a file. The module computes and learns in single precision, whatever the file does.

A step of an optimiser is below the spacing of half precision, and its squared gradients underflow there. So weights
and constants of any float type are float32 in the module, and written back in the type that the file has.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from tta_agent.core.types import Array
from tta_agent.models import external_data

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})
INTEGERS: Mapping[int, torch.dtype] = {
    TensorProto.UINT8: torch.uint8, TensorProto.INT8: torch.int8, TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
}  # fmt: skip
TAKEN = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16}) | INTEGERS.keys()  # as input
TOLERANCE = 1e-3  # of logits, in units of the largest one
_OF_HALF = {TensorProto.FLOAT16: 2e-2, TensorProto.BFLOAT16: 1e-1}  # the same, of files that round to these


def torch_tensor(item: TensorProto, folder: Path) -> Tensor:
    """Tensor of an initializer; floats of any kind in single precision.

    Args:
        folder: of the file.
    """
    values = external_data.values(item, folder)
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.array(values, np.float32 if item.data_type in FLOATS else values.dtype))


def torch_type(number: int) -> torch.dtype | None:
    """Type of the module for one of ONNX's; None where torch has none."""
    if number in FLOATS:
        return torch.float32
    found = getattr(torch, TensorProto.DataType.Name(number).lower(), None)
    return found if isinstance(found, torch.dtype) else None


def as_stored(values: Array, item: TensorProto) -> Array:
    """Values in the type that an initializer of the file has."""
    return np.asarray(values.astype(helper.tensor_dtype_to_np_dtype(item.data_type), copy=False))


def tolerance(graph: onnx.GraphProto) -> float:
    """Largest difference of logits, in units of the largest, by which the file may differ from float32."""
    types = {item.data_type for item in graph.initializer if max(item.dims, default=1) > 1}
    types |= {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    return max(_OF_HALF.get(number, TOLERANCE) for number in types)
