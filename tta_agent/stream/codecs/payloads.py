"""Payloads of requests and responses: the tensors in a value, by its first bytes, whatever carries it."""

from __future__ import annotations

import io
import json
import math
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tta_agent.core.errors import DecodeError
from tta_agent.core.types import Array, Shape
from tta_agent.stream.codecs import datatypes, images, inputs, oip, protobuf
from tta_agent.stream.codecs.datatypes import is_number, of_bytes, show

NPY = b"\x93NUMPY"
PROTOBUF = "application/x-protobuf"
CONTENT_TYPES = (
    "application/octet-stream", "application/json", PROTOBUF, "application/x-npy", "image/png", "image/jpeg",
)  # fmt: skip
_NEAR = 4096  # bytes from the start
_V1 = (b'"instances"', b'"predictions"')


def read(value: bytes, shape: Shape | None, *, head_length: int | None = None, proto: str = "") -> oip.Body:
    """Tensors of a request, a response, or both.

    Args:
        shape: of one sample; tells one sample from a batch where the value is a bare array or image.
        head_length: bytes of the JSON head, where raw tensors follow it and the length is known.
        proto: `request` or `response` where the value is that protobuf message.

    Raises:
        DecodeError: the value is malformed.
    """
    if proto:
        return protobuf.response(value) if proto == "response" else protobuf.request(value)
    if value.startswith(NPY):
        return oip.Body({"input": inputs.single(npy(value), shape)})
    if images.kind(value):
        return oip.Body({"input": of_bytes([value])})
    if is_v1(value):
        return v1(value)
    return oip.decode(value, head_length)


def is_v1(value: bytes) -> bool:
    """Whether it is a JSON body of KServe's protocol version 1."""
    head = value[:_NEAR]
    if head[:64].lstrip()[:1] != b"{" or b'"inputs"' in head or b'"outputs"' in head:
        return False  # raw tensors are not searched
    if not any(word in value for word in _V1):
        return False
    return b'"inputs"' not in value and b'"outputs"' not in value


def npy(value: bytes) -> Array:
    """The array of a `.npy` file, a view; no pickles.

    Raises:
        DecodeError: no such file, or cut short.
    """
    file = io.BytesIO(value)
    try:
        major, _ = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file)
    except Exception as error:  # the header is a literal of Python
        raise DecodeError("npy", f"the .npy file cannot be read: {error}") from error
    at, count = file.tell(), math.prod(shape)
    if not is_number(dtype) or count * dtype.itemsize != len(value) - at:
        told = f"the .npy file says {dtype} {list(shape)} and holds {len(value) - at} bytes; expected numbers"
        raise DecodeError("npy", told)
    array = np.frombuffer(value, dtype, count, at)
    array = array.astype(dtype.newbyteorder("="), copy=False)
    flat = oip.shaped("input", array, shape[::-1] if fortran else shape)
    return flat.T if fortran else flat


def v1(value: bytes) -> oip.Body:
    """Body `{"instances": [...]}`, `{"predictions": [...]}` or both, of KServe's protocol version 1.

    Raises:
        DecodeError: no JSON object of that form.
    """
    try:
        body = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise DecodeError("json", f"the body is not JSON: {error}; it begins {show(value[:20])}") from error
    if not isinstance(body, dict) or not body.keys() & {"instances", "predictions"}:
        raise DecodeError("not_object", f"the body is {show(body)}; expected instances or predictions")
    given, answers = (_columns(body[key], key) if key in body else {} for key in ("instances", "predictions"))
    named = (body.get(name) for name in ("id", "model_name", "model_version"))
    id, model, version = (part if isinstance(part, str) else None for part in named)
    return oip.Body(given, answers, id, model, version)


def _columns(rows: object, side: str) -> dict[str, Array]:
    """Tensors of rows: one, or one for each name where the rows are objects."""
    if not isinstance(rows, list) or not rows:
        raise DecodeError("instances", f"{side} are {show(rows)}; expected a list of one entry a sample")
    if not all(isinstance(row, dict) and "b64" not in row for row in rows):
        return {side: _column(rows, side)}
    names = list(rows[0])
    if any(list(row) != names for row in rows):
        raise DecodeError(
            "instances", f"{side} differ in their names; expected those of the first, {show(names)}"
        )
    return {name: _column([row[name] for row in rows], name) for name in names}


def _column(values: Sequence[Any], name: str) -> Array:
    if all(isinstance(value, Mapping) and set(value) == {"b64"} for value in values):
        return _decoded([value["b64"] for value in values], name)
    return datatypes.regular(name, list(values))


def _decoded(values: Sequence[object], name: str) -> Array:
    try:
        return of_bytes([b64decode(value) for value in values])  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise DecodeError("base64", f"{name} holds no base64: {error}") from error
