"""Datatypes and JSON data of Open Inference Protocol tensors."""

from __future__ import annotations

import math
import reprlib
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
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
BYTES = np.dtype(object)  # elements are `bytes`: texts, or encoded images
BF16 = np.dtype("<u2")  # the upper half of float32
_LENGTH = 4  # bytes before each element of a binary BYTES tensor
_NUMBERS = {int, float, bool}


def show(value: object) -> str:
    """Value for a message: its repr, cut short."""
    return reprlib.repr(value)


def datatype(dtype: np.dtype[Any]) -> str:
    """Protocol name of a numpy dtype."""
    if dtype == BYTES:
        return "BYTES"
    if dtype.str[1:] not in _NAMES:
        raise TypeError(
            f"{dtype} has no datatype in the Open Inference Protocol; valid: {', '.join(_DTYPES)}"
        )
    return _NAMES[dtype.str[1:]]


def to_bytes(array: Array) -> bytes:
    """Values of a binary tensor, little-endian; elements of BYTES each after its length in 4 bytes."""
    if array.dtype != BYTES:
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return b"".join(len(one).to_bytes(_LENGTH, "little") + one for one in array.ravel())


def numpy_dtype(name: str, value: object) -> np.dtype[Any]:
    """Numpy dtype of the datatype of tensor `name`.

    Raises:
        DecodeError: `value` is no datatype.
    """
    if value == "BYTES":
        return BYTES
    if not isinstance(value, str) or value not in _DTYPES:
        valid = ", ".join((*_DTYPES, "BF16 (binary only)", "BYTES"))
        raise DecodeError("datatype", f"tensor {name} has datatype {show(value)}; valid: {valid}")
    return _DTYPES[value]


def from_bf16(raw: Array) -> Array:
    """Float32 of the bits of bfloat16."""
    return (raw.astype("<u4") << 16).view("<f4")


def elements(name: str, buffer: bytes, count: int) -> Array:
    """Elements of a binary BYTES tensor, each with its length before it: an array of `bytes` [count].

    Raises:
        DecodeError: too few elements, or a length that leads beyond the buffer.
    """
    found: list[bytes] = []
    at = 0
    while at < len(buffer) and len(found) <= count:
        size = int.from_bytes(buffer[at : at + _LENGTH], "little")
        at += _LENGTH + size
        found.append(buffer[at - size : at])
    if at != len(buffer) or len(found) != count:
        told = f"tensor {name} holds {len(found)} elements in {len(buffer)} bytes; expected {count}"
        raise DecodeError("bytes_tensor", f"{told}, each after its length in 4 bytes")
    return of_bytes(found)


def texts_from_json(name: str, data: object, count: int, *, base64: bool) -> Array:
    """JSON data of a BYTES tensor, nested or flat, as an array of `bytes` [count].

    Raises:
        DecodeError: no lists of strings, too many or too few, or no base64 where it should be.
    """
    flat = list(_leaves(data))
    if len(flat) != count or not all(isinstance(part, str) for part in flat):
        raise DecodeError("bytes_tensor", f"data of tensor {name} is {show(data)}; expected {count} strings")
    try:
        return of_bytes([b64decode(part) if base64 else part.encode() for part in flat])
    except ValueError as error:  # half of a surrogate pair is one, too
        raise DecodeError("bytes_tensor", f"data of tensor {name} cannot be read: {error}") from error


def of_bytes(found: Sequence[bytes]) -> Array:
    """Array of `bytes` [N]."""
    array = np.empty(len(found), dtype=BYTES)
    array[:] = found
    return array


def _leaves(data: object, rank: int = 0) -> Iterator[Any]:
    if isinstance(data, list) and rank < MAX_RANK:
        for part in data:
            yield from _leaves(part, rank + 1)
    else:
        yield data


def from_json(name: str, data: object, dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
    """JSON data of tensor `name`, nested or flat, as an array of this dtype.

    Raises:
        DecodeError: no regular lists of numbers, too many or too few, or out of the range of the dtype.
    """
    array = regular(name, data)
    if array.size and array.dtype.kind not in _JSON_KINDS[dtype.kind]:
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


def regular(name: str, data: object) -> Array:
    """JSON lists of numbers as an array of the shape that they have.

    Raises:
        DecodeError: no regular lists of numbers.
    """
    if not _numeric(data):  # numpy would make room for the longest of any strings, once for each of them
        raise DecodeError("data", f"data of tensor {name} is {show(data)}; expected a list of numbers")
    try:
        array = np.array(data)
    except (ValueError, OverflowError, TypeError) as error:
        raise DecodeError("data", f"data of tensor {name} is not a regular array: {error}") from error
    if not is_number(array.dtype):  # integers beyond 64 bits become objects
        raise DecodeError("data", f"data of tensor {name} is {show(data)}; expected numbers of up to 64 bits")
    return array


def is_number(dtype: np.dtype[Any]) -> bool:
    """Whether a numpy dtype has a datatype of numbers in the protocol."""
    return dtype.str[1:] in _NAMES


def _numeric(data: object, rank: int = 0) -> bool:
    """Whether these are lists of lists ... of numbers."""
    if not isinstance(data, list) or rank > MAX_RANK:
        return False
    kinds = set(map(type, data))
    return kinds <= _NUMBERS or (kinds == {list} and all(_numeric(part, rank + 1) for part in data))
