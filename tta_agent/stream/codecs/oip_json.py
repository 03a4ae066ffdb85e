"""Open Inference Protocol v2 as plain JSON, without an envelope; labels as `{"id", "label", "ts"}`. Read only."""

from __future__ import annotations

from tta_agent.core.exchange import Item
from tta_agent.core.types import RawRecord, Shape
from tta_agent.stream.codecs import bodies, oip, payloads


class OipJson(bodies.TensorCodec):
    """Codec of plain JSON, for producers without a CloudEvents library; the answer may stand in the same object.

    Also of KServe's protocol version 1: `{"instances": [...]}`, with `predictions` beside them. The id is the body's,
    else the record's key, and is the entity key, too; the time is the record's timestamp. A header `traceparent` is
    read.

    """

    def recognises(self, raw: RawRecord) -> bool:
        """Whether it is a JSON object that mentions `inputs`, `instances` or a `label`."""
        value = raw.value or b""
        words = (b'"inputs"', b'"label', b'"instances"')
        return value[:64].lstrip()[:1] == b"{" and any(word in value for word in words)

    def decode(self, raw: RawRecord, shape: Shape | None, classes: int | None) -> list[Item]:
        """Samples or labels of one record; see `Codec`."""
        value = raw.value or b""
        is_v1 = payloads.is_v1(value)
        if b'"inputs"' not in value and not is_v1:
            return list(bodies.labels(raw, bodies.timestamp(raw), classes))
        # all of it is JSON: nothing gives the length of a head
        body = payloads.v1(value) if is_v1 else oip.decode(value, len(value))
        target = self._target(shape, classes)
        return bodies.items(raw, body, bodies.plain(raw, body, "oip_json"), target)
