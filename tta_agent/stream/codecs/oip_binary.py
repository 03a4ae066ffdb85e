"""Open Inference Protocol v2 with the binary tensor extension, without an envelope: a JSON head, then raw tensors."""

from __future__ import annotations

from tta_agent.core.exchange import Item
from tta_agent.core.types import RawRecord, Shape
from tta_agent.stream.codecs import bodies, checks, oip


class OipBinary(bodies.TensorCodec):
    """Codec of bodies as Triton's clients send them over HTTP, with request and response in one object, or one alone.

    The header `inference-header-content-length` gives the length of the head where it is there; else one JSON value
    is read from the start. Id and times are as in plain JSON.

    """

    def recognises(self, raw: RawRecord) -> bool:
        """Whether it begins as a JSON object and names the size of a raw tensor."""
        value = raw.value or b""
        return value[:64].lstrip()[:1] == b"{" and b'"binary_data_size"' in value

    def decode(self, raw: RawRecord, shape: Shape | None, classes: int | None) -> list[Item]:
        """Samples of one record; see `Codec`."""
        held = {name.lower(): value for name, value in raw.headers if value}
        given = held.get(oip.HEAD_LENGTH)
        length = checks.whole(None if given is None else given.decode("latin-1"), "head_length")
        body = oip.decode(raw.value or b"", length)
        target = self._target(shape, classes)
        return bodies.items(raw, body, bodies.plain(raw, body, "oip_binary", bodies.OIP), target)
