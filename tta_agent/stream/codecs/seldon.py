"""Seldon Core 2: its topics of inputs and outputs, with protobuf or JSON of the Open Inference Protocol.

A topic is `<prefix>.<namespace>.model|pipeline.<name>.inputs|outputs`. A response has the key of its request, which
is how the two meet.
"""

from __future__ import annotations

import re

from tta_agent.core.errors import DecodeError
from tta_agent.core.exchange import Item
from tta_agent.core.types import RawRecord, Shape
from tta_agent.stream.codecs import bodies, checks, oip, protobuf

KIND = "seldon-infer-type"  # header: json/inferModelRequest, proto/InferModelResponse ...
TOPIC = re.compile(r"(?P<place>.+\.(?:model|pipeline)\.[^.]+)\.(?P<side>inputs|outputs)(?:\.[^.]+)*")
REQUEST_ID = "x-request-id"
_GENERATION = re.compile(r"_\d+$")
_FRAME = b"\x00"  # magic byte of a schema registry, before the number of the schema in 4 bytes


class Seldon(bodies.TensorCodec):
    """Codec of Seldon Core 2."""

    by_headers = True

    def recognises(self, raw: RawRecord) -> bool:
        """Whether there is Seldon's header, or the topic has the form of its names."""
        return any(name.lower() == KIND for name, _ in raw.headers) or bool(TOPIC.fullmatch(raw.topic))

    def decode(self, raw: RawRecord, shape: Shape | None, classes: int | None) -> list[Item]:
        """Samples of one request, or its response; see `Codec`."""
        if not raw.value:
            raise DecodeError("empty", "the record has no value; expected a request or a response of Seldon")
        side, body = _side(raw), _body(raw)
        if (side == "response") != bool(body.outputs) or (side == "request") != bool(body.inputs):
            raise DecodeError("seldon", f"the record says that it is a {side}, and holds none")
        target = self._target(shape, classes)
        return bodies.items(raw, body, _envelope(raw, body, side), target)


def _side(raw: RawRecord) -> str:
    """`request` or `response`, by the header, else by the topic."""
    said = _header(raw, KIND).lower()
    if said.endswith(("request", "response")):
        return "response" if said.endswith("response") else "request"
    found = TOPIC.fullmatch(raw.topic)
    if found:
        return "response" if found["side"] == "outputs" else "request"
    expected = f"expected the header {KIND} or a topic <prefix>.<namespace>.model.<name>.inputs"
    raise DecodeError("seldon", f"neither the topic nor a header says what the record is; {expected}")


def _body(raw: RawRecord) -> oip.Body:
    value = raw.value or b""
    if value[:64].lstrip()[:1] == b"{":
        return oip.decode(value, None)
    value = unframed(value)
    return protobuf.response(value) if _side(raw) == "response" else protobuf.request(value)


def unframed(value: bytes) -> bytes:
    """The message without the frame of a schema registry: magic byte, schema, list of message indexes.

    Raises:
        DecodeError: a frame that is cut short.
    """
    if not value.startswith(_FRAME):  # no message of protobuf begins so: field 0 does not exist
        return value
    at = 5
    count, at = _zigzag(value, at)
    for _ in range(count):  # 0 stands for the first message of the schema
        _, at = _zigzag(value, at)
    return value[at:]


def _zigzag(value: bytes, at: int) -> tuple[int, int]:
    """An integer in protobuf's signed variable length, and the place after it."""
    number, shift = 0, 0
    while at < len(value) and shift < 35:
        byte, at = value[at], at + 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            if not 0 <= (found := number >> 1 ^ -(number & 1)) <= 64:
                break
            return found, at
    raise DecodeError(
        "frame", "the schema registry's frame is damaged: expected message indexes after the schema"
    )


def _envelope(raw: RawRecord, body: oip.Body, side: str) -> bodies.Envelope:
    key = bodies.key_text(raw)
    id = checks.text(_header(raw, REQUEST_ID) or body.id or key.rpartition(".")[2], "id")
    place = TOPIC.fullmatch(raw.topic)
    source = place["place"] if place else "seldon"
    said = bodies.version(body.version) if side == "response" else None
    model = _GENERATION.sub("", body.model or "")
    kind = f"seldon.{model}" if model else "seldon"
    time_s, trace = bodies.timestamp(raw), bodies.traceparent(raw)
    return bodies.Envelope(id, source, kind, time_s, said, id, id, trace, source)


def _header(raw: RawRecord, wanted: str) -> str:
    return next(
        (value.decode("latin-1") for name, value in raw.headers if name.lower() == wanted and value), ""
    )
