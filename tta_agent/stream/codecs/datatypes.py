"""Datatypes and JSON data of Open Inference Protocol tensors."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tta_agent.core.errors import DecodeError
from tta_agent.core.types import Array

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    **{f"INT{8 * n}": np.dtype(f"<i{n}") for n in (1, 2, 4, 8)},
    **{f"UINT{8 * n}": np.dtype(f"<u{n}") for n in (1, 2, 4, 8)},
    **{f"FP{8 * n}": np.dtype(f"<f{n}") for n in (2, 4, 8)},
}
_NAMES = {dtype.str[1:]: name for name, dtype in _DTYPES.items()}
_JSON_KINDS = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}  # numpy kinds that JSON data of a kind may have
MAX_RANK = 32
_NUMBERS = {int, float, bool}


def show(value: object) -> str:
    """Value for a message: its repr, cut short."""
    return reprlib.repr(value)


def datatype(dtype: np.dtype[Any]) -> str:
    """Protocol name of a numpy dtype."""
    if dtype.str[1:] not in _NAMES:
        raise TypeError(
            f"{dtype} has no datatype in the Open Inference Protocol; valid: {', '.join(_DTYPES)}"
        )
    return _NAMES[dtype.str[1:]]


def numpy_dtype(name: str, value: object) -> np.dtype[Any]:
    """Numpy dtype of the datatype of tensor `name`.

    Raises:
        DecodeError: `value` is no datatype of numbers.
    """
    if value == "BYTES":
        raise DecodeError(
            "bytes_tensor", f"tensor {name} is BYTES: strings and encoded images are not numbers"
        )
    if not isinstance(value, str) or value not in _DTYPES:
        valid = ", ".join(_DTYPES)
        raise DecodeError("datatype", f"tensor {name} has datatype {show(value)}; valid: {valid}")
    return _DTYPES[value]


def from_json(name: str, data: object, dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
    """JSON data of tensor `name`, nested or flat, as an array of this dtype.

    Raises:
        DecodeError: no regular lists of numbers, too many or too few, or out of the range of the dtype.
    """
    if not _numeric(data):  # numpy would make room for the longest of any strings, once for each of them
        raise DecodeError("data", f"data of tensor {name} is {show(data)}; expected a list of numbers")
    try:
        array = np.array(data)
    except (ValueError, OverflowError, TypeError) as error:
        raise DecodeError("data", f"data of tensor {name} is not a regular array: {error}") from error
    if array.ndim == 0 or (array.size and array.dtype.kind not in _JSON_KINDS[dtype.kind]):
        expected = f"a list of numbers that are {datatype(dtype)}"
        raise DecodeError("data", f"data of tensor {name} is {show(data)}; expected {expected}")
    if array.size != math.prod(shape) or (array.ndim > 1 and array.shape != tuple(shape)):
        found = f"data of shape {list(array.shape)}"
        raise DecodeError("data_count", f"tensor {name} has {found}; expected {list(shape)}, nested or flat")
    if dtype.kind in "iu" and array.size:
        valid = np.iinfo(dtype)
        low, high = int(array.min()), int(array.max())
        if low < valid.min or high > valid.max:
            expected = f"{datatype(dtype)} holds {valid.min} to {valid.max}"
            raise DecodeError("data_range", f"tensor {name} has values from {low} to {high}; {expected}")
    with np.errstate(over="ignore"):  # too large a float becomes infinite; who needs finite ones checks
        return array.astype(dtype)


def _numeric(data: object, rank: int = 0) -> bool:
    """Whether these are lists of lists ... of numbers."""
    if not isinstance(data, list) or rank > MAX_RANK:
        return False
    kinds = set(map(type, data))
    return kinds <= _NUMBERS or (kinds == {list} and all(_numeric(part, rank + 1) for part in data))
