"""Open Inference Protocol v2 as protobuf: `ModelInferRequest` and `ModelInferResponse` of its gRPC service.

The messages are described here field by field, so that no generated code has to fit the installed protobuf.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    message,
    message_factory,
)

from tta_agent.core.errors import DecodeError
from tta_agent.core.types import Array
from tta_agent.stream.codecs import checks, oip
from tta_agent.stream.codecs.datatypes import BYTES, MAX_RANK, numpy_dtype, of_bytes, show

_TYPES = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "tta.inference"
_FIELDS: Mapping[str, Mapping[int, tuple[str, int | str, bool]]] = {  # number: name, type or message, repeated
    "Contents": {
        1: ("bool_contents", _TYPES.TYPE_BOOL, True), 2: ("int_contents", _TYPES.TYPE_INT32, True),
        3: ("int64_contents", _TYPES.TYPE_INT64, True), 4: ("uint_contents", _TYPES.TYPE_UINT32, True),
        5: ("uint64_contents", _TYPES.TYPE_UINT64, True), 6: ("fp32_contents", _TYPES.TYPE_FLOAT, True),
        7: ("fp64_contents", _TYPES.TYPE_DOUBLE, True), 8: ("bytes_contents", _TYPES.TYPE_BYTES, True),
    },
    "Tensor": {
        1: ("name", _TYPES.TYPE_STRING, False), 2: ("datatype", _TYPES.TYPE_STRING, False),
        3: ("shape", _TYPES.TYPE_INT64, True), 5: ("contents", "Contents", False),
    },
    "Request": {
        1: ("model_name", _TYPES.TYPE_STRING, False), 2: ("model_version", _TYPES.TYPE_STRING, False),
        3: ("id", _TYPES.TYPE_STRING, False), 5: ("tensors", "Tensor", True), 6: ("wanted", "Tensor", True),
        7: ("raw", _TYPES.TYPE_BYTES, True),
    },
    "Response": {
        1: ("model_name", _TYPES.TYPE_STRING, False), 2: ("model_version", _TYPES.TYPE_STRING, False),
        3: ("id", _TYPES.TYPE_STRING, False), 5: ("tensors", "Tensor", True), 6: ("raw", _TYPES.TYPE_BYTES, True),
    },
}  # fmt: skip
_CONTENTS: Mapping[str, str] = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def request(value: bytes) -> oip.Body:
    """Body of a `ModelInferRequest`.

    Raises:
        DecodeError: no such message, or a tensor of it is malformed.
    """
    return _body(value, "Request")


def response(value: bytes) -> oip.Body:
    """Body of a `ModelInferResponse`; see `request`."""
    return _body(value, "Response")


def is_response(value: bytes) -> bool | None:
    """Whether the bytes are a response (True) or a request (False); None where they are neither.

    Up to raw tensors the two are the same on the wire: without any, a tensor list is taken for a request.
    """
    if _sound(value, "Request"):
        return False
    return True if _sound(value, "Response") else None


def _sound(value: bytes, kind: str) -> bool:
    try:
        parsed = _messages()[kind].FromString(value)
    except message.DecodeError:
        return False
    tensors = list(parsed.tensors)
    raw_fits = len(parsed.raw) in (0, len(tensors))
    return bool(tensors) and raw_fits and all(one.name and one.datatype for one in tensors)


@functools.cache
def _messages() -> Mapping[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="tta_inference.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _FIELDS.items():
        described = file.message_type.add(name=name)
        for number, (field, type, repeated) in fields.items():
            one = described.field.add(name=field, number=number)
            one.label = _TYPES.LABEL_REPEATED if repeated else _TYPES.LABEL_OPTIONAL
            if isinstance(type, str):
                one.type, one.type_name = _TYPES.TYPE_MESSAGE, f".{_PACKAGE}.{type}"
            else:
                one.type = type
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = pool.FindMessageTypeByName
    return {name: message_factory.GetMessageClass(find(f"{_PACKAGE}.{name}")) for name in _FIELDS}


def _body(value: bytes, kind: str) -> oip.Body:
    try:
        parsed = _messages()[kind].FromString(value)
    except message.DecodeError as error:
        raise DecodeError("protobuf", f"the value is no Model{'Infer' + kind}: {error}") from error
    tensors = _tensors(parsed.tensors, parsed.raw)
    sides = ({}, tensors) if kind == "Response" else (tensors, {})
    return oip.Body(*sides, parsed.id or None, parsed.model_name or None, parsed.model_version or None)


def _tensors(found: Sequence[Any], raw: Sequence[bytes]) -> dict[str, Array]:
    if raw and len(raw) != len(found):
        raise DecodeError(
            "tensors", f"{len(found)} tensors with {len(raw)} raw contents; expected one for each"
        )
    tensors: dict[str, Array] = {}
    for i, one in enumerate(found):
        checks.text(one.name, "name")
        if one.name in tensors:
            raise DecodeError("duplicate_tensor", f"name {one.name} twice; expected each name once")
        shape = _shape(one)
        flat = oip.buffer(one.name, one.datatype, raw[i], math.prod(shape)) if raw else _values(one, shape)
        tensors[one.name] = oip.shaped(one.name, flat, shape)
    return tensors


def _shape(tensor: Any) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    if len(shape) > MAX_RANK or any(n < 0 or n > 1 << 40 for n in shape):
        raise DecodeError("shape", f"tensor {tensor.name} has shape {show(shape)}; expected integers >= 0")
    return shape


def _values(tensor: Any, shape: Sequence[int]) -> Array:
    """Values of a tensor that are typed, not raw."""
    dtype = numpy_dtype(tensor.name, tensor.datatype)
    if tensor.datatype not in _CONTENTS:
        raise DecodeError("no_data", f"tensor {tensor.name} is {tensor.datatype}; expected raw contents")
    values = getattr(tensor.contents, _CONTENTS[tensor.datatype])
    if len(values) != math.prod(shape):
        told = f"tensor {tensor.name} has {len(values)} values; expected {list(shape)}"
        raise DecodeError("data_count", told)
    if dtype == BYTES:
        return of_bytes(values)
    try:
        return np.array(values, dtype=dtype)
    except OverflowError as error:
        raise DecodeError("data_range", f"tensor {tensor.name}: {error}") from error
