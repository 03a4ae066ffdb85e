"""Bodies shared by several wire formats: an Open Inference Protocol v2 inference, and a label as JSON.

With one sample its id is `id`; else the samples of a request are called `id#0` to `id#N-1`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tta_agent.core.errors import DecodeError
from tta_agent.core.types import Label, RawRecord, Record, Shape
from tta_agent.stream.codecs import checks, oip
from tta_agent.stream.codecs.datatypes import show

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Envelope:
    """Facts about a request beside its tensors.

    Attributes:
        id, source, type: identity of the request; records of equal identity are duplicates.
        time_s: time of the request, seconds since the epoch.
        version: number of the version that answered, or None.
        key: entity key; samples of one request share it, so that they are held out or learnt from together.
        tenant: on whose behalf it was made.
        traceparent: W3C trace context of the request, or None.
    """

    id: str
    source: str
    type: str
    time_s: float
    version: int | None
    key: str
    tenant: str
    traceparent: str | None


def records(
    raw: RawRecord,
    body: oip.Body,
    about: Envelope,
    shape: Shape | None,
    classes: int | None,
    output: str | None = None,
) -> list[Record]:
    """Samples of one request with one input tensor [N, ...] and at most one answer [N, C].

    Args:
        output: name of the output tensor that is the answer, where there are several.

    Raises:
        DecodeError: a tensor is missing, one too many, or does not fit the model.
    """
    x = checks.samples(checks.only(body.inputs, "input"), shape)
    served = checks.logits(checks.answer(body.outputs, output), len(x), classes) if body.outputs else None
    many = len(x) > 1
    found = []
    for i, name in enumerate(_names(about.id, len(x))):
        sample, answer = x[i], None if served is None else served[i]
        if many:  # else one sample that is kept would keep the whole batch
            sample, answer = sample.copy(), None if answer is None else answer.copy()
        where = (about.key, about.traceparent, raw.topic, raw.partition, raw.offset)
        identity = (about.source, name, about.type)
        found.append(
            Record(name, about.time_s, sample, answer, about.version, *where, identity, about.tenant)
        )
    return found


def labels(raw: RawRecord, time_s: float, classes: int | None) -> list[Label]:
    """Labels of a JSON body `{"id", "label", "ts"}`: `label` is a class, or a list of one for each sample.

    Of a model of several labels it is `{"id", "labels", "ts"}`: the list of those that hold, or a list of such lists.

    Args:
        time_s: time of the label where the body has no `ts`.

    Raises:
        DecodeError: the body is malformed, or a class does not exist.
    """
    body = _label_body(raw)
    sets = "labels" in body
    values = _sets(body["labels"]) if sets else body["label"]
    values = values if isinstance(values, list) else [values]
    if not values:
        raise DecodeError("label_empty", "label is an empty list; expected one class a sample")
    checks.count(len(values), "label_samples")
    id = checks.text(body.get("id"), "label_id")
    when_s = time_s if body.get("ts") is None else checks.instant(body["ts"], "label_time")
    where = (when_s, raw.topic, raw.partition, raw.offset)
    truths = [(checks.label_set if sets else checks.label)(value, classes) for value in values]
    return [Label(name, truth, *where) for name, truth in zip(_names(id, len(truths)), truths, strict=True)]


def timestamp(raw: RawRecord) -> float:
    """Timestamp of the record, seconds since the epoch, as its producer gave it."""
    return checks.instant(raw.timestamp_ms / 1000, "timestamp")


def traceparent(raw: RawRecord, otherwise: str = "") -> str | None:
    """Trace context in the header `traceparent`; None where malformed, as W3C asks."""
    hop = next((value for name, value in raw.headers if name.lower() == "traceparent" and value), None)
    found = otherwise if hop is None else hop.decode("latin-1")
    return found if _TRACEPARENT.fullmatch(found) else None


def _sets(value: object) -> object:
    """One set as a list of sets."""
    single = isinstance(value, list) and not any(isinstance(one, list) for one in value)
    return [value] if single else value


def _label_body(raw: RawRecord) -> Mapping[str, Any]:
    try:
        body = json.loads(raw.value or b"")
    except (ValueError, RecursionError) as error:
        raise DecodeError("label_json", f"label is not JSON: {error}") from error
    if not isinstance(body, dict) or not body.keys() & {"label", "labels"}:
        raise DecodeError("label_object", f'label body is {show(body)}; expected {{"id", "label", "ts"}}')
    return body


def _names(id: str, count: int) -> Sequence[str]:
    return [id] if count == 1 else [f"{id}#{i}" for i in range(count)]
