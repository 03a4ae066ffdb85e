"""Open Inference Protocol v2 as plain JSON, without an envelope; labels as `{"id", "label", "ts"}`. Read only."""

from __future__ import annotations

from tta_agent.core.errors import DecodeError
from tta_agent.core.types import Label, RawRecord, Record, Shape
from tta_agent.stream.codecs import bodies, checks, oip


class OipJson:
    """Codec of plain JSON, for producers without a CloudEvents library; the answer may stand in the same object.

    The id is the body's, else the record's key, and is the entity key, too; the time is the record's timestamp.
    A header `traceparent` is read.

    Args:
        output: name of the output tensor that is the answer, where a record has several.
    """

    def __init__(self, output: str | None = None) -> None:
        self._output = output

    def recognises(self, raw: RawRecord) -> bool:
        """Whether it is a JSON object that mentions `inputs` or a `label`."""
        value = raw.value or b""
        return value[:64].lstrip()[:1] == b"{" and (b'"inputs"' in value or b'"label' in value)

    def decode(self, raw: RawRecord, shape: Shape | None, classes: int | None) -> list[Record | Label]:
        """Samples or labels of one record; see `Codec`."""
        value, time_s = raw.value or b"", bodies.timestamp(raw)
        if b'"inputs"' not in value:
            return list(bodies.labels(raw, time_s, classes))
        body = oip.decode(value, len(value))  # all of it is JSON: nothing gives the length of a head
        id, version = checks.text(body.id or _key(raw), "id"), checks.whole(body.version, "model_version")
        model = checks.text(body.model, "model_name") if body.model else ""
        trace = bodies.traceparent(raw)
        about = bodies.Envelope(id, model, "oip_json", time_s, version, id, id, trace)
        return list(bodies.records(raw, body, about, shape, classes, self._output))


def _key(raw: RawRecord) -> str:
    try:
        return (raw.key or b"").decode()
    except UnicodeDecodeError as error:
        raise DecodeError("id", f"the body has no id, and the record's key is no text: {error}") from error
