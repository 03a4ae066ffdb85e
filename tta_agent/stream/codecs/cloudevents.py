"""CloudEvents 1.0 in Kafka's binary mode with Open Inference Protocol bodies: the default format on the wire.

One record holds one request of N samples. With N = 1 its sample is called `id`; else `id#0` to `id#N-1`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

from cloudevents.exceptions import GenericException
from cloudevents.http import CloudEvent
from cloudevents.kafka import KafkaMessage, from_binary, to_binary

from tta_agent.core.errors import DecodeError
from tta_agent.core.types import Array, Headers, Label, RawRecord, Record
from tta_agent.stream.codecs import checks, oip

INFERENCE = "io.tta.inference.v1"  # inputs and outputs in one body: no join needed
LABEL = "io.tta.label.v1"
LABEL_REQUEST = "io.tta.label_request.v1"
KSERVE_REQUEST = "org.kubeflow.serving.inference.request"

Message: TypeAlias = tuple[bytes | None, bytes | None, Headers]  # key, value, headers

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_MAX_MESSAGE = 1000  # characters of an error that travel to the dead-letter topic


def encode_inference(
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
    """One inference, inputs [N, ...] and answers [N, C], as key, value and headers."""
    outputs = {} if logits is None else {"logits": logits}
    number = None if version is None else str(version)
    body, head_length = oip.encode(oip.Body({"input": x}, outputs, id, model, number))
    extensions = {"modelname": model, "modelversion": number, "entitykey": entity}
    extensions["inferenceheadercontentlength"] = str(head_length)
    required = _attributes(INFERENCE, id, source, time_s, "application/octet-stream")
    key, value, headers = _message(required | extensions, body)
    trace = () if traceparent is None else (("traceparent", traceparent.encode()),)
    return key, value, headers + trace


def encode_label(id: str, label: int | Sequence[int], time_s: float, *, source: str = "tta-agent") -> Message:
    """The truth about one inference: a class, or a list of them for a record of N samples."""
    truth = label if isinstance(label, int) else list(label)
    body = json.dumps({"id": id, "label": truth, "ts": time_s}).encode()
    return _message(_attributes(LABEL, id, source, time_s, "application/json"), body)


def encode_label_request(request: Mapping[str, Any], id: str, time_s: float) -> Message:
    """A record whose label the agent would like to have, as JSON."""
    body = json.dumps(dict(request)).encode()
    return _message(_attributes(LABEL_REQUEST, id, "tta-agent", time_s, "application/json"), body)


def decode(raw: RawRecord, shape: tuple[int | None, ...] | None, classes: int | None) -> list[Record | Label]:
    """The samples or labels of one record, checked against what the model takes.

    Args:
        raw: a record with CloudEvents headers.
        shape: one sample's shape, without the batch axis; None stands for any size, or for any shape at all.
        classes: logits of one sample; None takes any number.

    Raises:
        DecodeError: with a reason that says what is wrong.
    """
    event = _event(raw)
    if event["type"] == LABEL:
        return list(_labels(raw, event, classes))
    if event["type"] in (INFERENCE, KSERVE_REQUEST):
        return list(_records(raw, event, shape, classes))
    valid = ", ".join((INFERENCE, LABEL, KSERVE_REQUEST))
    raise DecodeError("type", f"ce_type is {oip.show(event['type'])}; valid: {valid}")


def dead_letter(raw: RawRecord, reason: str, message: str) -> Message:
    """The record as it came, and why and where from, for `<topic>.tta.dlq`."""
    why = {
        "reason": reason,
        "exception": message[:_MAX_MESSAGE],
        "topic": raw.topic,
        "partition": str(raw.partition),
        "offset": str(raw.offset),
        "time": _iso(time.time()),
    }
    # A record that fails a second time, after a replay, tells only of its latest failure.
    kept = tuple(header for header in raw.headers if not header[0].startswith("tta_dlq_"))
    return raw.key, raw.value, kept + tuple((f"tta_dlq_{name}", text.encode()) for name, text in why.items())


def _attributes(kind: str, id: str, source: str, time_s: float, content: str) -> dict[str, str | None]:
    what = {"specversion": "1.0", "id": id, "source": source, "type": kind}
    return {**what, "time": _iso(time_s), "datacontenttype": content}


def _message(attributes: Mapping[str, str | None], body: bytes) -> Message:
    given = {name: value for name, value in attributes.items() if value is not None}
    message = to_binary(CloudEvent(given, body), lambda data: data, lambda event: event["id"].encode())
    return message.key, message.value, tuple(message.headers.items())  # type: ignore[return-value]


def _iso(time_s: float) -> str:
    moment = datetime.fromtimestamp(time_s, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


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
    attributes["id"] = checks.text(attributes["id"], "id")
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


def _records(
    raw: RawRecord, event: Mapping[str, Any], shape: tuple[int | None, ...] | None, classes: int | None
) -> Sequence[Record]:
    body = _body(raw, event)
    x = checks.samples(checks.only(body.inputs, "input"), shape)
    served = checks.logits(checks.only(body.outputs, "output"), len(x), classes) if body.outputs else None
    id, key, version = event["id"], event.get("entitykey"), _version(event, body)
    time_s, trace = _time(raw, event), _trace(raw, event)
    # Samples of one request share its key: held out or learnt from, but together.
    key = id if key is None else checks.text(key, "entitykey")
    tenant = checks.text(event["tenant"], "tenant") if event.get("tenant") else key
    many = len(x) > 1
    records = []
    for i, name in enumerate(_names(id, len(x))):
        sample, answer = x[i], None if served is None else served[i]
        if many:  # else one sample that is kept would keep the whole batch
            sample, answer = sample.copy(), None if answer is None else answer.copy()
        where = (key, trace, raw.topic, raw.partition, raw.offset)
        records.append(
            Record(
                name, time_s, sample, answer, version, *where, (event["source"], name, event["type"]), tenant
            )
        )
    return records


def _body(raw: RawRecord, event: Mapping[str, Any]) -> oip.Body:
    _content(event, ("application/octet-stream", "application/json"))
    length = checks.whole(event.get("inferenceheadercontentlength"), "inferenceheadercontentlength")
    return oip.decode(raw.value or b"", length)


def _content(event: Mapping[str, Any], valid: Sequence[str]) -> None:
    found = event.get("datacontenttype")
    if found is not None and found.split(";")[0].strip().lower() not in valid:
        raise DecodeError("content_type", f"content-type is {oip.show(found)}; valid: {', '.join(valid)}")


def _version(event: Mapping[str, Any], body: oip.Body) -> int | None:
    if event["type"] == KSERVE_REQUEST:
        return None  # a request does not say who will answer
    said, written = event.get("modelversion"), body.version
    if said is not None and written is not None and said != written:
        raise DecodeError(
            "version_differs", f"ce_modelversion is {said}, model_version {written}; expected one"
        )
    return checks.whole(said if said is not None else written, "modelversion")


def _time(raw: RawRecord, event: Mapping[str, Any]) -> float:
    return raw.timestamp_ms / 1000 if event.get("time") is None else checks.instant(event["time"], "time")


def _trace(raw: RawRecord, event: Mapping[str, Any]) -> str | None:
    """Trace context of the request; W3C says to ignore one that is malformed."""
    hop = next((value for name, value in raw.headers if name.lower() == "traceparent" and value), None)
    found = event.get("traceparent", "") if hop is None else hop.decode("latin-1")
    return found if _TRACEPARENT.fullmatch(found) else None


def _names(id: str, count: int) -> list[str]:
    return [id] if count == 1 else [f"{id}#{i}" for i in range(count)]


def _labels(raw: RawRecord, event: Mapping[str, Any], classes: int | None) -> Sequence[Label]:
    _content(event, ("application/json",))
    try:
        body = json.loads(raw.value or b"")
    except (ValueError, RecursionError) as error:
        raise DecodeError("label_json", f"label is not JSON: {error}") from error
    if not isinstance(body, dict) or "label" not in body:
        raise DecodeError("label_object", f'label body is {oip.show(body)}; expected {{"id", "label", "ts"}}')
    values = body["label"] if isinstance(body["label"], list) else [body["label"]]
    if not values:
        raise DecodeError("label_empty", "label is an empty list; expected one class a sample")
    id = checks.text(body.get("id"), "label_id")
    time_s = _time(raw, event) if body.get("ts") is None else checks.instant(body["ts"], "label_time")
    where = (time_s, raw.topic, raw.partition, raw.offset)
    truths = [checks.label(value, classes) for value in values]
    return [Label(name, truth, *where) for name, truth in zip(_names(id, len(truths)), truths, strict=True)]
