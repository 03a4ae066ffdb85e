"""CloudEvents 1.0 with Open Inference Protocol bodies: the default wire format, and the one of KServe's logger.

One record holds one request of N samples, its response, or both.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from cloudevents.http import CloudEvent
from cloudevents.kafka import to_binary

from tta_agent.core.errors import DecodeError
from tta_agent.core.exchange import Item
from tta_agent.core.types import Array, Message, RawRecord, Shape
from tta_agent.stream.codecs import bodies, checks, events, images, oip, payloads
from tta_agent.stream.codecs.datatypes import show
from tta_agent.stream.codecs.events import ReceivedEvent

INFERENCE = "io.tta.inference.v1"  # inputs and outputs in one body: no join needed
LABEL = "io.tta.label.v1"
LABEL_REQUEST = "io.tta.label_request.v1"
RESULT = "io.tta.result.v1"
KSERVE_REQUEST = "org.kubeflow.serving.inference.request"
KSERVE_RESPONSE = "org.kubeflow.serving.inference.response"
KSERVE = (KSERVE_REQUEST, KSERVE_RESPONSE)
SELDON = ("io.seldon.serving.inference.request", "io.seldon.serving.inference.response")


class CloudEvents(bodies.TensorCodec):
    """Codec of inferences, of requests and responses that KServe's or Seldon's logger writes apart, and of labels."""

    by_headers = True

    def recognises(self, raw: RawRecord) -> bool:
        """Whether there is a `ce_` header, a content type of CloudEvents, or a JSON object with a specversion."""
        return events.recognises(raw.value or b"", raw.headers)

    def decode(self, raw: RawRecord, shape: Shape | None, classes: int | None) -> list[Item]:
        """Samples or labels of one record; see `Codec`."""
        event = events.read(raw.value or b"", raw.headers)
        kind = event.attributes["type"]
        if kind in (INFERENCE, LABEL) and event.attributes["specversion"] != "1.0":
            raise DecodeError("specversion", f"{kind} of CloudEvents 0.3; expected specversion 1.0")
        if kind == LABEL:
            _content(event.attributes, ("application/json",))
            return list(bodies.labels(replace(raw, value=event.data), _time(raw, event.attributes), classes))
        if kind in (INFERENCE, *KSERVE, *SELDON):
            body = _body(event, shape)
            target = self._target(shape, classes)
            return bodies.items(raw, body, _envelope(raw, event, body), target)
        valid = ", ".join((INFERENCE, LABEL, *KSERVE))
        raise DecodeError("type", f"ce_type is {show(kind)}; valid: {valid}")

    def encode_inference(
        self,
        id: str,
        x: Array,
        logits: Array | None,
        version: int | str | None,
        *,
        source: str,
        model: str,
        time_s: float,
        traceparent: str | None = None,
        entity: str | None = None,
    ) -> Message:
        """One request as `io.tta.inference.v1`; see `WritingCodec`."""
        outputs = {} if logits is None else {"logits": logits}
        number = None if version is None else str(version)
        body, head_length = oip.encode(oip.Body({"input": x}, outputs, id, model, number))
        about = {"modelname": model, "modelversion": number, "entitykey": entity}
        return inference(
            id, body, head_length, source=source, time_s=time_s, traceparent=traceparent, **about
        )

    def encode_label(self, id: str, label: int | Sequence[int] | frozenset[int], time_s: float) -> Message:
        """Label of one inference as `io.tta.label.v1`; see `WritingCodec`."""
        named = "labels" if isinstance(label, frozenset) else "label"
        truth = label if isinstance(label, int) else sorted(label) if named == "labels" else list(label)
        return _json_message(LABEL, id, {"id": id, named: truth, "ts": time_s}, time_s)

    def encode_label_request(self, id: str, request: Mapping[str, Any], time_s: float) -> Message:
        """Label request as `io.tta.label_request.v1`, with `request` as its JSON body."""
        return _json_message(LABEL_REQUEST, id, dict(request), time_s)


def inference(
    id: str,
    body: bytes,
    head_length: int | None,
    *,
    source: str,
    time_s: float,
    traceparent: str | None = None,
    **extensions: str | None,
) -> Message:
    """`io.tta.inference.v1` of a body that holds inputs and outputs.

    Args:
        head_length: bytes of its JSON head, where raw tensors follow.
        source, time_s, traceparent: as in `WritingCodec.encode_inference`.
        extensions: further attributes by name; None leaves one out.
    """
    extensions["inferenceheadercontentlength"] = None if head_length is None else str(head_length)
    content = "application/json" if head_length is None else "application/octet-stream"
    key, value, headers = _message(_attributes(INFERENCE, id, source, time_s, content) | extensions, body)
    trace = () if traceparent is None else (("traceparent", traceparent.encode()),)
    return key, value, headers + trace


def result(id: str, body: Mapping[str, Any], time_s: float, **extensions: str) -> Message:
    """`io.tta.result.v1` of one record, for others to read.

    Args:
        id: inference id.
        extensions: further attributes by name.
    """
    return _json_message(RESULT, id, body, time_s, extensions)


def _json_message(
    kind: str,
    id: str,
    body: Mapping[str, Any],
    time_s: float,
    extensions: Mapping[str, str] = MappingProxyType({}),
) -> Message:
    attributes = _attributes(kind, id, "tta-agent", time_s, "application/json")
    return _message({**attributes, **extensions}, json.dumps(body).encode())


def _attributes(kind: str, id: str, source: str, time_s: float, content: str) -> dict[str, str | None]:
    what = {"specversion": "1.0", "id": id, "source": source, "type": kind}
    moment = datetime.fromtimestamp(time_s, UTC).isoformat(timespec="microseconds")
    return {**what, "time": moment.replace("+00:00", "Z"), "datacontenttype": content}


def _message(attributes: Mapping[str, str | None], body: bytes) -> Message:
    given = {name: value for name, value in attributes.items() if value is not None}
    message = to_binary(CloudEvent(given, body), lambda data: data, lambda event: event["id"].encode())
    return message.key, message.value, tuple(message.headers.items())  # type: ignore[return-value]


def _envelope(raw: RawRecord, event: ReceivedEvent, body: oip.Body) -> bodies.Envelope:
    said = event.attributes
    id, key, kind = said["id"], said.get("entitykey"), said["type"]
    trace = bodies.well_formed(event.traceparent or said.get("traceparent", ""))
    key = id if key is None else checks.text(key, "entitykey")
    tenant = checks.text(said["tenant"], "tenant") if said.get("tenant") else key
    join = "" if kind == INFERENCE else said["source"]
    where = (_time(raw, said), _version(said, body), key, tenant, trace)
    return bodies.Envelope(id, said["source"], kind, *where, join)


def _body(event: ReceivedEvent, shape: Shape | None) -> oip.Body:
    said = event.attributes
    _content(said, payloads.CONTENT_TYPES)
    length = checks.whole(said.get("inferenceheadercontentlength"), "inferenceheadercontentlength")
    content = _plain(said.get("datacontenttype"))
    if content.startswith("image/") and not images.kind(event.data):
        raise DecodeError("content_type", f"content-type is an image; the value begins {event.data[:8]!r}")
    # a response of KServe's logger has the content type of its request: the first bytes decide, but for protobuf
    proto = content == payloads.PROTOBUF
    side = "response" if said["type"] in (KSERVE_RESPONSE, SELDON[1]) else "request"
    return payloads.read(event.data, shape, head_length=length, proto=side if proto else "")


def _content(event: Mapping[str, Any], valid: Sequence[str]) -> None:
    found = event.get("datacontenttype")
    if found is not None and _plain(found) not in valid:
        raise DecodeError("content_type", f"content-type is {show(found)}; valid: {', '.join(valid)}")


@functools.lru_cache(64)
def _plain(content: str | None) -> str:
    return (content or "").split(";")[0].strip().lower()


def _version(event: Mapping[str, Any], body: oip.Body) -> int | str | None:
    if event["type"] in (KSERVE_REQUEST, SELDON[0]):
        return None  # a request does not say who will answer
    said, written = event.get("modelversion"), body.version
    if said is not None and written is not None and said != written:
        raise DecodeError(
            "version_differs", f"ce_modelversion is {show(said)}, model_version {show(written)}"
        )
    return bodies.version(said if said is not None else written, "modelversion")


def _time(raw: RawRecord, event: Mapping[str, Any]) -> float:
    when = event.get("time")
    return bodies.timestamp(raw) if when is None else checks.instant(when, "time")
