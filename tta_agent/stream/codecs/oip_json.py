"""Open Inference Protocol v2 as plain JSON, without an envelope; labels as `{"id", "label", "ts"}`. Read only."""

from __future__ import annotations

from tta_agent.core.exchange import Item
from tta_agent.core.types import RawRecord, Shape
from tta_agent.stream.codecs import bodies, oip, payloads

_V2 = (b'"inputs"', b'"outputs"')
_WORDS = (*_V2, b'"instances"', b'"predictions"', b'"label')


class OipJson(bodies.TensorCodec):
    """Codec of plain JSON, for producers without a CloudEvents library.

    The answer stands in the same object, or in a record of its own with the same id. Also of KServe's protocol
    version 1: `{"instances": [...]}` and `{"predictions": [...]}`. The id is the body's, else the key, and
    the entity key is the same; the time is the record's timestamp. A header `traceparent` is read.

    """

    def recognises(self, raw: RawRecord) -> bool:
        """Whether it is a JSON object that mentions tensors of either protocol, or a `label`."""
        value = raw.value or b""
        return value[:64].lstrip()[:1] == b"{" and any(word in value for word in _WORDS)

    def decode(self, raw: RawRecord, shape: Shape | None, classes: int | None) -> list[Item]:
        """Samples of one request, its response, or labels; see `Codec`."""
        value = raw.value or b""
        is_v1 = payloads.is_v1(value)
        if not is_v1 and not any(word in value for word in _V2):
            return list(bodies.labels(raw, bodies.timestamp(raw), classes))
        # all of it is JSON: nothing gives the length of a head
        body = payloads.v1(value) if is_v1 else oip.decode(value, len(value))
        target = self._target(shape, classes)
        return bodies.items(raw, body, bodies.plain(raw, body, "oip_json", bodies.OIP), target)
