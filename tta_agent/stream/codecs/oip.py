"""Open Inference Protocol v2 bodies: plain JSON, or a JSON head and raw buffers (binary tensor extension)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tta_agent.core.errors import DecodeError
from tta_agent.core.types import Array
from tta_agent.stream.codecs import datatypes
from tta_agent.stream.codecs.datatypes import MAX_RANK, datatype, from_json, numpy_dtype, show

HEAD_LENGTH = "inference-header-content-length"  # the HTTP header that gives the bytes of the JSON head

BASE64 = ("base64", "pillow_image")  # content types of MLServer whose strings are encoded bytes
_MAX_SIZE = 1 << 40  # of one axis


@dataclass(frozen=True, slots=True)
class Body:
    """Body of a request, a response, or both in one object.

    Attributes:
        inputs, outputs: tensors by name, in order. Decoded binary tensors are read-only views of the body.
        wanted: outputs that a request asks for by name, each with its parameter `binary_data` or None.
        classification: its parameter `classification` as it came, of the outputs that have one.
    """

    inputs: Mapping[str, Array] = field(default_factory=dict)
    outputs: Mapping[str, Array] = field(default_factory=dict)
    id: str | None = None
    model: str | None = None
    version: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    wanted: Mapping[str, bool | None] = field(default_factory=dict)
    classification: Mapping[str, Any] = field(default_factory=dict)


def encode(body: Body, *, binary: bool = True) -> tuple[bytes, int | None]:
    """Encode a body: its bytes, and the length of their JSON head, or None where all of it is JSON."""
    buffers: list[bytes] | None = [] if binary else None
    named = {"model_name": body.model, "model_version": body.version, "id": body.id}
    head: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    if body.parameters:
        head["parameters"] = dict(body.parameters)
    if body.inputs:
        head["inputs"] = [_entry(name, array, buffers) for name, array in body.inputs.items()]
    outputs = [_entry(name, array, buffers) for name, array in body.outputs.items()]
    outputs += [_wish(name, wish) for name, wish in body.wanted.items()]
    if outputs:
        head["outputs"] = outputs
    text = json.dumps(head, separators=(",", ":")).encode()
    return (text, None) if buffers is None else (b"".join([text, *buffers]), len(text))


def decode(body: bytes, head_length: int | None) -> Body:
    """Read a body; a head of unknown length is found by parsing one JSON value from the start.

    Raises:
        DecodeError: a part is malformed; `reason` names it.
    """
    head, end = _head(body, head_length)
    buffers = _Buffers(body, end)
    inputs, _ = _tensors(head, "inputs", buffers)
    outputs, asked = _tensors(head, "outputs", buffers)
    buffers.finish()
    parameters = _object(head, "parameters", "the body")
    model, version = _text(head, "model_name"), _text(head, "model_version")
    wanted = {name: given.get("binary_data") for name, given in asked.items()}
    classes = {name: given["classification"] for name, given in asked.items() if "classification" in given}
    return Body(inputs, outputs, _text(head, "id"), model, version, parameters, wanted, classes)


def _entry(name: str, array: Array, buffers: list[bytes] | None) -> dict[str, Any]:
    """One tensor as JSON; with `buffers` its values go there instead."""
    entry: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype(array.dtype)}
    if buffers is None:
        flat = array.ravel().tolist()
        entry["data"] = [one.decode() for one in flat] if array.dtype == datatypes.BYTES else flat
        return entry
    buffers.append(datatypes.to_bytes(array))
    entry["parameters"] = {"binary_data_size": len(buffers[-1])}
    return entry


def _wish(name: str, binary: bool | None) -> dict[str, Any]:
    return {"name": name} if binary is None else {"name": name, "parameters": {"binary_data": binary}}


def _head(body: bytes, head_length: int | None) -> tuple[dict[str, Any], int]:
    if head_length is not None and not 0 < head_length <= len(body):
        raise DecodeError("head_length", f"head of {head_length} bytes; expected 1 to {len(body)} (the body)")
    try:
        if head_length is not None:
            head, end = json.loads(body[:head_length]), head_length
        else:
            # latin-1 keeps one character a byte, so that the end is an offset into the body.
            head, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
            head = head if body[:end].isascii() else json.loads(body[:end])
    except (ValueError, RecursionError) as error:
        raise DecodeError("json", f"head is not JSON: {error}; it begins {show(body[:20])}") from error
    if not isinstance(head, dict):
        raise DecodeError("not_object", f"head is {show(head)}; expected an object with inputs or outputs")
    return head, end


@dataclass(slots=True)
class _Buffers:
    """The raw part of a body, handed out in tensor order."""

    body: bytes
    at: int

    def take(self, name: str, size: int) -> memoryview:
        if self.at + size > len(self.body):
            left = len(self.body) - self.at
            raise DecodeError("truncated", f"tensor {name} needs {size} bytes; {left} are left in the body")
        self.at += size
        return memoryview(self.body)[self.at - size : self.at]

    def finish(self) -> None:
        if self.at < len(self.body) and self.body[self.at :].strip():
            rest = len(self.body) - self.at
            raise DecodeError("trailing", f"{rest} bytes follow the last tensor; expected none")


def _tensors(
    head: Mapping[str, Any], side: str, buffers: _Buffers
) -> tuple[dict[str, Array], dict[str, Mapping[str, Any]]]:
    """Tensors of one side by name, and parameters of the names that carry no tensor but only ask for one."""
    entries = head.get(side, [])
    if not isinstance(entries, list):
        raise DecodeError("tensors", f"{side} is {show(entries)}; expected a list of tensors")
    tensors: dict[str, Array] = {}
    wanted: dict[str, Mapping[str, Any]] = {}
    for entry in entries:
        name = _name(entry, side)
        if name in tensors or name in wanted:
            raise DecodeError("duplicate_tensor", f"{side} name {name} twice; expected each name once")
        if side == "outputs" and not entry.keys() & {"datatype", "shape", "data"}:
            wanted[name] = _object(entry, "parameters", name)
        else:
            tensors[name] = _tensor(name, entry, buffers)
    return tensors, wanted


def _name(entry: object, side: str) -> str:
    if not isinstance(entry, dict):
        raise DecodeError("tensor", f"an entry of {side} is {show(entry)}; expected an object")
    name = entry.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= 256:
        raise DecodeError("name", f"a tensor of {side} has the name {show(name)}; expected 1 to 256 letters")
    return name


def _tensor(name: str, entry: Mapping[str, Any], buffers: _Buffers) -> Array:
    shape = _shape(name, entry.get("shape"))
    size = _object(entry, "parameters", name).get("binary_data_size")
    if size is None and "data" not in entry:
        raise DecodeError("no_data", f"tensor {name} has neither data nor binary_data_size; expected one")
    if size is not None and "data" in entry:
        raise DecodeError("two_data", f"tensor {name} has both data and binary_data_size; expected one")
    flat = _from_json(name, entry, shape) if size is None else _binary(name, entry, shape, size, buffers)
    return shaped(name, flat, shape)


def shaped(name: str, flat: Array, shape: Sequence[int]) -> Array:
    """Values of a tensor in its shape.

    Raises:
        DecodeError: an empty tensor with absurd other dimensions.
    """
    try:
        return flat.reshape(shape)
    except (ValueError, OverflowError) as error:
        raise DecodeError("shape", f"tensor {name} has shape {list(shape)}: {error}") from error


def _from_json(name: str, entry: Mapping[str, Any], shape: Sequence[int]) -> Array:
    dtype = numpy_dtype(name, entry.get("datatype"))
    if dtype != datatypes.BYTES:
        return from_json(name, entry["data"], dtype, shape)
    coded = _object(entry, "parameters", name).get("content_type") in BASE64
    return datatypes.texts_from_json(name, entry["data"], math.prod(shape), base64=coded)


def _binary(
    name: str, entry: Mapping[str, Any], shape: Sequence[int], size: object, buffers: _Buffers
) -> Array:
    kind, count = entry.get("datatype"), math.prod(shape)
    dtype = datatypes.BF16 if kind == "BF16" else numpy_dtype(name, kind)
    given = type(size) is int and size >= 0
    if not given or (dtype != datatypes.BYTES and size != count * dtype.itemsize):
        told = f"{kind} of shape {list(shape)} takes {count * dtype.itemsize}"
        raise DecodeError("binary_size", f"tensor {name} has {show(size)} bytes; {told}")
    return buffer(name, kind, buffers.take(name, int(size)), count)  # type: ignore[call-overload]


def buffer(name: str, kind: object, raw: memoryview | bytes, count: int) -> Array:
    """Values [count] of one tensor in the little-endian bytes of its datatype.

    Raises:
        DecodeError: `kind` is no datatype, or the bytes are of another count.
    """
    dtype = datatypes.BF16 if kind == "BF16" else numpy_dtype(name, kind)
    if dtype == datatypes.BYTES:
        return datatypes.elements(name, bytes(raw), count)
    if len(raw) != count * dtype.itemsize:
        raise DecodeError(
            "binary_size", f"tensor {name} has {len(raw)} bytes; expected {count * dtype.itemsize}"
        )
    found = np.frombuffer(raw, dtype, count)
    return datatypes.from_bf16(found) if kind == "BF16" else found


def _shape(name: str, value: object) -> tuple[int, ...]:
    listed = isinstance(value, list) and len(value) <= MAX_RANK
    if not listed or any(type(n) is not int or not 0 <= n <= _MAX_SIZE for n in value):  # type: ignore[attr-defined]
        expected = f"expected up to {MAX_RANK} integers >= 0"
        raise DecodeError("shape", f"tensor {name} has shape {show(value)}; {expected}")
    return tuple(value)  # type: ignore[arg-type]


def _object(holder: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = holder.get(key)
    if value is not None and not isinstance(value, dict):
        raise DecodeError("parameters", f"{key} of {where} are {show(value)}; expected an object")
    return value or {}


def _text(head: Mapping[str, Any], key: str) -> str | None:
    value = head.get(key)
    if value is not None and not isinstance(value, str):
        raise DecodeError("field", f"{key} is {show(value)}; expected a string")
    return value
