"""CloudEvents 1.0 in Kafka's binary mode with Open Inference Protocol bodies: the default wire format.

One record holds one request of N samples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cloudevents.exceptions import GenericException
from cloudevents.http import CloudEvent
from cloudevents.kafka import KafkaMessage, from_binary, to_binary

from tta_agent.core.errors import DecodeError
from tta_agent.core.types import Array, Headers, Label, Message, RawRecord, Record, Shape
from tta_agent.stream.codecs import bodies, checks, oip
from tta_agent.stream.codecs.datatypes import show

INFERENCE = "io.tta.inference.v1"  # inputs and outputs in one body: no join needed
LABEL = "io.tta.label.v1"
LABEL_REQUEST = "io.tta.label_request.v1"
KSERVE_REQUEST = "org.kubeflow.serving.inference.request"


class CloudEvents:
    """Codec of inferences, requests of KServe's logger, labels and label requests, told apart by `ce_type`.

    Args:
        output: name of the output tensor that is the answer, where a record has several.
    """

    by_headers = True

    def __init__(self, output: str | None = None) -> None:
        self._output = output

    def recognises(self, raw: RawRecord) -> bool:
        """Whether there is a `ce_` header, or a content type of CloudEvents."""
        return any(
            name.startswith("ce_")
            or (name == "content-type" and value is not None and value.startswith(b"application/cloudevents"))
            for name, value in ((name.lower(), value) for name, value in raw.headers)
        )

    def decode(self, raw: RawRecord, shape: Shape | None, classes: int | None) -> list[Record | Label]:
        """Samples or labels of one record; see `Codec`."""
        event = _event(raw)
        if event["type"] == LABEL:
            _content(event, ("application/json",))
            return list(bodies.labels(raw, _time(raw, event), classes))
        if event["type"] in (INFERENCE, KSERVE_REQUEST):
            body = _body(raw, event)
            return list(bodies.records(raw, body, _envelope(raw, event, body), shape, classes, self._output))
        valid = ", ".join((INFERENCE, LABEL, KSERVE_REQUEST))
        raise DecodeError("type", f"ce_type is {show(event['type'])}; valid: {valid}")

    def encode_inference(
        self,
        id: str,
        x: Array,
        logits: Array | None,
        version: int | None,
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
        extensions = {"modelname": model, "modelversion": number, "entitykey": entity}
        extensions["inferenceheadercontentlength"] = str(head_length)
        required = _attributes(INFERENCE, id, source, time_s, "application/octet-stream")
        key, value, headers = _message(required | extensions, body)
        trace = () if traceparent is None else (("traceparent", traceparent.encode()),)
        return key, value, headers + trace

    def encode_label(self, id: str, label: int | Sequence[int] | frozenset[int], time_s: float) -> Message:
        """Label of one inference as `io.tta.label.v1`; see `WritingCodec`."""
        named = "labels" if isinstance(label, frozenset) else "label"
        truth = label if isinstance(label, int) else sorted(label) if named == "labels" else list(label)
        return _json_message(LABEL, id, {"id": id, named: truth, "ts": time_s}, time_s)

    def encode_label_request(self, id: str, request: Mapping[str, Any], time_s: float) -> Message:
        """Label request as `io.tta.label_request.v1`, with `request` as its JSON body."""
        return _json_message(LABEL_REQUEST, id, dict(request), time_s)


def _json_message(kind: str, id: str, body: Mapping[str, Any], time_s: float) -> Message:
    attributes = _attributes(kind, id, "tta-agent", time_s, "application/json")
    return _message(attributes, json.dumps(body).encode())


def _attributes(kind: str, id: str, source: str, time_s: float, content: str) -> dict[str, str | None]:
    what = {"specversion": "1.0", "id": id, "source": source, "type": kind}
    moment = datetime.fromtimestamp(time_s, UTC).isoformat(timespec="microseconds")
    return {**what, "time": moment.replace("+00:00", "Z"), "datacontenttype": content}


def _message(attributes: Mapping[str, str | None], body: bytes) -> Message:
    given = {name: value for name, value in attributes.items() if value is not None}
    message = to_binary(CloudEvent(given, body), lambda data: data, lambda event: event["id"].encode())
    return message.key, message.value, tuple(message.headers.items())  # type: ignore[return-value]


def _event(raw: RawRecord) -> Mapping[str, Any]:
    """CloudEvents attributes of the record."""
    if not raw.value:
        raise DecodeError("empty", "the record has no value; expected an inference or a label")
    headers = _headers(raw.headers)
    # The library invents an id, a time and a version where they lack: what a label is joined on must be real.
    for name in ("id", "source", "type"):
        if not headers.get(f"ce_{name}"):
            raise DecodeError(f"no_{name}", f"header ce_{name} is missing or empty; CloudEvents requires it")
    try:
        event = from_binary(KafkaMessage(headers, None, raw.value), data_unmarshaller=lambda data: data)
    except (UnicodeDecodeError, GenericException) as error:
        raise DecodeError("headers", f"CloudEvents headers cannot be read: {error}") from error
    attributes: dict[str, Any] = dict(event.get_attributes())
    if "ce_time" not in headers:
        del attributes["time"]  # it is now, not when it happened: the record's timestamp knows better
    for name in ("id", "source"):
        attributes[name] = checks.text(attributes[name], name)
    return attributes


def _headers(pairs: Headers) -> dict[str, bytes]:
    """Headers by lower-case name, once it is clear that they are CloudEvents in binary mode."""
    headers: dict[str, bytes] = {}
    for name, value in pairs:
        lower = name.lower()
        if lower in headers and lower.startswith("ce_"):
            raise DecodeError("header_twice", f"header {lower} comes twice; expected once")
        if value is not None:  # Kafka has headers without a value
            headers[lower] = value
    if headers.get("content-type", b"").startswith(b"application/cloudevents"):
        raise DecodeError(
            "structured", "content-type is application/cloudevents; expected binary mode (ce_*)"
        )
    if "ce_specversion" not in headers:
        raise DecodeError(
            "not_cloudevent", "header ce_specversion is missing; expected CloudEvents headers (ce_*)"
        )
    if headers["ce_specversion"] != b"1.0":
        raise DecodeError("specversion", f"ce_specversion is {headers['ce_specversion']!r}; expected 1.0")
    return headers


def _envelope(raw: RawRecord, event: Mapping[str, Any], body: oip.Body) -> bodies.Envelope:
    id, key, version = event["id"], event.get("entitykey"), _version(event, body)
    time_s, trace = _time(raw, event), bodies.traceparent(raw, event.get("traceparent", ""))
    key = id if key is None else checks.text(key, "entitykey")
    tenant = checks.text(event["tenant"], "tenant") if event.get("tenant") else key
    return bodies.Envelope(id, event["source"], event["type"], time_s, version, key, tenant, trace)


def _body(raw: RawRecord, event: Mapping[str, Any]) -> oip.Body:
    _content(event, ("application/octet-stream", "application/json"))
    length = checks.whole(event.get("inferenceheadercontentlength"), "inferenceheadercontentlength")
    return oip.decode(raw.value or b"", length)


def _content(event: Mapping[str, Any], valid: Sequence[str]) -> None:
    found = event.get("datacontenttype")
    if found is not None and found.split(";")[0].strip().lower() not in valid:
        raise DecodeError("content_type", f"content-type is {show(found)}; valid: {', '.join(valid)}")


def _version(event: Mapping[str, Any], body: oip.Body) -> int | None:
    if event["type"] == KSERVE_REQUEST:
        return None  # a request does not say who will answer
    said, written = event.get("modelversion"), body.version
    if said is not None and written is not None and said != written:
        raise DecodeError(
            "version_differs", f"ce_modelversion is {show(said)}, model_version {show(written)}"
        )
    return checks.whole(said if said is not None else written, "modelversion")


def _time(raw: RawRecord, event: Mapping[str, Any]) -> float:
    when = event.get("time")
    return bodies.timestamp(raw) if when is None else checks.instant(when, "time")
