"""CloudEvents as records of Kafka: binary mode (headers `ce_*`) and structured mode (one JSON object)."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tta_agent.core.errors import DecodeError
from tta_agent.core.types import Headers
from tta_agent.stream.codecs import checks
from tta_agent.stream.codecs.datatypes import show

STRUCTURED = b"application/cloudevents"
SPECVERSIONS = ("1.0", "0.3")
REQUIRED = ("id", "source", "type")


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """One event.

    Attributes:
        attributes: context attributes by name; `id`, `source` and `type` are there, `time` only where it was given.
        data: bytes of its payload.
        traceparent: the record's header of that name; empty where there is none.
    """

    attributes: Mapping[str, Any]
    data: bytes
    traceparent: str = ""


def recognises(value: bytes, headers: Headers) -> bool:
    """Whether there is a `ce_` header, a content type of CloudEvents, or a JSON object with a specversion."""
    for name, held in headers:
        name = name.lower()
        if name.startswith("ce_") or (name == "content-type" and held and held.startswith(STRUCTURED)):
            return True
    return _has_specversion(value)


def read(value: bytes, pairs: Headers) -> ReceivedEvent:
    """Event of the value and the headers of a record.

    Raises:
        DecodeError: an attribute is missing, malformed or comes twice, or the structure is no CloudEvent.
    """
    if not value:
        raise DecodeError("empty", "the record has no value; expected an inference or a label")
    headers = _headers(pairs)
    trace = headers.get("traceparent", b"").decode("latin-1")
    if _is_structured(value, headers):
        return ReceivedEvent(*_structured(value), trace)
    return ReceivedEvent(_binary(headers), value, trace)


def _is_structured(value: bytes, headers: Mapping[str, bytes]) -> bool:
    if headers.get("content-type", b"").startswith(STRUCTURED):
        return True
    return not any(name.startswith("ce_") for name in headers) and _has_specversion(value)


def _has_specversion(value: bytes) -> bool:
    return value[:64].lstrip()[:1] == b"{" and b'"specversion"' in value


def _headers(pairs: Headers) -> dict[str, bytes]:
    """Headers by lower-case name; those of CloudEvents once each."""
    headers: dict[str, bytes] = {}
    for name, value in pairs:
        lower = name.lower()
        if lower in headers and lower.startswith("ce_"):
            raise DecodeError("header_twice", f"header {lower} comes twice; expected once")
        if value is not None:  # Kafka has headers without a value
            headers[lower] = value
    return headers


def _binary(headers: Mapping[str, bytes]) -> dict[str, Any]:
    if "ce_specversion" not in headers:
        raise DecodeError(
            "not_cloudevent", "header ce_specversion is missing; expected CloudEvents headers (ce_*)"
        )
    _known_version(headers["ce_specversion"].decode("latin-1"), "header ce_specversion")
    for name in REQUIRED:
        if not headers.get(f"ce_{name}"):
            raise DecodeError(f"no_{name}", f"header ce_{name} is missing or empty; CloudEvents requires it")
    try:  # by hand: the library makes an event of it, which costs more than all else that is done to the headers
        attributes = {name[3:]: text.decode() for name, text in headers.items() if name.startswith("ce_")}
        if "content-type" in headers:
            attributes["datacontenttype"] = headers["content-type"].decode()
    except UnicodeDecodeError as error:
        raise DecodeError("headers", f"CloudEvents headers cannot be read: {error}") from error
    return _checked(attributes)


def _structured(value: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        event = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise DecodeError("structured", f"the structured CloudEvent is not JSON: {error}") from error
    if not isinstance(event, dict):
        raise DecodeError("structured", f"the CloudEvent is {show(event)}; expected an object")
    _known_version(event.get("specversion"), "specversion")
    for name in REQUIRED:
        if not event.get(name):
            raise DecodeError(f"no_{name}", f"attribute {name} is missing or empty; CloudEvents requires it")
    attributes = {name: part for name, part in event.items() if name not in ("data", "data_base64")}
    for name, part in attributes.items():
        if not isinstance(part, str | int | bool):
            raise DecodeError("headers", f"attribute {name} is {show(part)}; expected a text or an integer")
    texts = {name: part if isinstance(part, str) else json.dumps(part) for name, part in attributes.items()}
    return _checked(texts), _data(event)


def _data(event: Mapping[str, Any]) -> bytes:
    coded, data = event.get("data_base64"), event.get("data")
    if coded is None and event.get("datacontentencoding") == "base64":  # of version 0.3
        coded = data
    try:
        if coded is not None:
            return b64decode(coded)
        if isinstance(data, str):
            return data.encode()
    except (ValueError, TypeError) as error:
        raise DecodeError("structured", f"data of the CloudEvent cannot be read: {error}") from error
    if data is None:
        raise DecodeError("structured", "the CloudEvent has neither data nor data_base64; expected one")
    return json.dumps(data).encode()


def _known_version(said: object, where: str) -> None:
    if said not in SPECVERSIONS:
        raise DecodeError("specversion", f"{where} is {show(said)}; expected {' or '.join(SPECVERSIONS)}")


def _checked(attributes: dict[str, Any]) -> dict[str, Any]:
    for name in ("id", "source"):
        checks.text(attributes[name], name)
    return attributes
