"""MLServer's Kafka server: requests on `mlserver-input`, responses on `mlserver-output`, bodies as JSON.

Its headers are those of CloudEvents 0.3 over HTTP (`Ce-Id`, `Ce-Type` ...), as text. The key is the id of the
inference, and joins the two.
"""

from __future__ import annotations

from collections.abc import Mapping

from tta_agent.core.errors import DecodeError
from tta_agent.core.exchange import Item
from tta_agent.core.types import RawRecord, Shape
from tta_agent.stream.codecs import bodies, checks, oip

MODEL, VERSION = "mlserver-model", "mlserver-version"
TOPICS = ("mlserver-input", "mlserver-output")  # of MLServer's own settings
TYPE, ID, ENTITY, TENANT = "ce-type", "ce-id", "ce-entitykey", "ce-tenant"


class MLServer(bodies.TensorCodec):
    """Codec of MLServer."""

    by_headers = True

    def recognises(self, raw: RawRecord) -> bool:
        """Whether there is a header of MLServer's, or the topic is one of its own."""
        names = {name.lower() for name, _ in raw.headers}
        return raw.topic in TOPICS or not names.isdisjoint((MODEL, TYPE))

    def decode(self, raw: RawRecord, shape: Shape | None, classes: int | None) -> list[Item]:
        """Samples of one request, or its response; see `Codec`."""
        if not raw.value:
            raise DecodeError(
                "empty", "the record has no value; expected a request or a response of MLServer"
            )
        body = oip.decode(raw.value, len(raw.value))
        held = {name.lower(): value.decode("latin-1") for name, value in raw.headers if value}
        target = self._target(shape, classes)
        return bodies.items(raw, body, _envelope(raw, body, held), target)


def _envelope(raw: RawRecord, body: oip.Body, held: Mapping[str, str]) -> bodies.Envelope:
    id = checks.text(bodies.key_text(raw) or body.id or held.get(ID), "id")
    said = bodies.version(body.version or held.get(VERSION)) if body.outputs else None
    entity = checks.text(held.get(ENTITY, id), "entitykey")
    tenant = checks.text(held.get(TENANT, entity), "tenant")
    time_s, trace = bodies.timestamp(raw), bodies.traceparent(raw)
    return bodies.Envelope(id, "mlserver", "mlserver", time_s, said, entity, tenant, trace, "mlserver")
