"""Open Inference Protocol v2 as protobuf, without an envelope: the messages of its gRPC service."""

from __future__ import annotations

from tta_agent.core.errors import DecodeError
from tta_agent.core.exchange import Item
from tta_agent.core.types import RawRecord, Shape
from tta_agent.stream.codecs import bodies, payloads, protobuf

_JSON = b"{["


class OipProto(bodies.TensorCodec):
    """Codec of `ModelInferRequest` and `ModelInferResponse`; they are joined by their id, else by the record's key.

    Up to raw tensors both messages are the same on the wire. A header `content-type` that ends in `;request` or
    `;response` tells them apart, else the end of the topic's name (`request`, `inputs`, `response`, `outputs`), else
    the place of the raw tensors.

    """

    def recognises(self, raw: RawRecord) -> bool:
        """Whether the value is one of the messages, with tensors that have names and datatypes."""
        value = raw.value or b""
        return value[:1] not in (b"", *(_JSON[i : i + 1] for i in range(2))) and (
            protobuf.is_response(value) is not None
        )

    def decode(self, raw: RawRecord, shape: Shape | None, classes: int | None) -> list[Item]:
        """Samples of one request, or its response; see `Codec`."""
        value = raw.value or b""
        side = told(raw)
        if not side:
            is_response = protobuf.is_response(value)
            if is_response is None:
                raise DecodeError("protobuf", "the value is no ModelInferRequest and no ModelInferResponse")
            side = "response" if is_response else "request"
        body = payloads.read(value, shape, proto=side)
        target = self._target(shape, classes)
        return bodies.items(raw, body, bodies.plain(raw, body, "oip_proto", bodies.OIP), target)


def told(raw: RawRecord) -> str:
    """`request` or `response` by a header or by the name of the topic; empty where neither tells."""
    content = next((value for name, value in raw.headers if name.lower() == "content-type" and value), b"")
    for text in (content.decode("latin-1").strip().lower(), raw.topic.lower()):
        if text.endswith((";response", "response", "responses", "outputs", "output")):
            return "response"
        if text.endswith((";request", "request", "requests", "inputs", "input")):
            return "request"
    return ""
