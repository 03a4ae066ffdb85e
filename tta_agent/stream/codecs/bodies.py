"""Bodies shared by several wire formats: an Open Inference Protocol v2 inference, and a label as JSON.

With one sample its id is `id`; else the samples of a request are called `id#0` to `id#N-1`.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tta_agent.core.errors import DecodeError
from tta_agent.core.exchange import Item, LoggedRequest, LoggedResponse, ServedAnswers
from tta_agent.core.types import Array, Label, RawRecord, Record, Shape
from tta_agent.stream.codecs import answers, checks, inputs, oip
from tta_agent.stream.codecs.datatypes import show
from tta_agent.stream.codecs.images import IMAGES, ImagePreprocessing

OIP = "oip"  # what joins a request and its response without an envelope: a binary one may be answered in JSON
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Target:
    """What a body is checked against.

    Attributes:
        shape: of one sample as the model takes it; None takes any.
        classes: of the model; None takes any number.
        output: name of the output tensor that is the answer, where there are several.
        images: preprocessing of encoded images.
    """

    shape: Shape | None
    classes: int | None
    output: str | None = None
    images: ImagePreprocessing = IMAGES


class TensorCodec:
    """Base of codecs whose records hold tensors.

    Args:
        output: name of the output tensor that is the answer, where a record has several.
        images: preprocessing of encoded images.
    """

    def __init__(self, output: str | None = None, images: ImagePreprocessing = IMAGES) -> None:
        self._output, self._images = output, images

    def _target(self, shape: Shape | None, classes: int | None) -> Target:
        return Target(shape, classes, self._output, self._images)


@dataclass(frozen=True, slots=True)
class Envelope:
    """Facts about a request beside its tensors.

    Attributes:
        id, source, type: identity of the request; records of equal identity are duplicates.
        time_s: time of the request, seconds since the epoch.
        version: number of the version that answered, or its name, or None.
        key: entity key; samples of one request share it, so that they are held out or learnt from together.
        tenant: on whose behalf it was made.
        traceparent: W3C trace context of the request, or None.
        join: source, or format, where request and response are logged apart under one id; empty where they are not.
    """

    id: str
    source: str
    type: str
    time_s: float
    version: int | str | None
    key: str
    tenant: str
    traceparent: str | None
    join: str = ""

    @property
    def number(self) -> int | None:
        """Number of the version, where it is one."""
        return self.version if isinstance(self.version, int) else None

    @property
    def version_name(self) -> str:
        """Name of the version, where it is no number."""
        return self.version if isinstance(self.version, str) else ""


def items(raw: RawRecord, body: oip.Body, about: Envelope, target: Target) -> list[Item]:
    """Samples of one request with one input tensor [N, ...] and at most one answer; or the half that is logged apart.

    Raises:
        DecodeError: a tensor is missing, one too many, or does not fit the model.
    """
    if about.join and body.outputs and not body.inputs:
        read = functools.partial(answers.read, body.outputs, classes=target.classes, wanted=target.output)
        size = sum(one.nbytes for one in body.outputs.values()) + 256
        return [LoggedResponse((about.join, about.id), read, about.number, about.version_name, size)]
    found = records(raw, body, about, target)
    if about.join and not body.outputs:
        return [LoggedRequest((about.join, about.id), tuple(found))]
    return list(found)


def records(raw: RawRecord, body: oip.Body, about: Envelope, target: Target) -> list[Record]:
    """Samples of one request with their answers, as far as the body holds them; see `items`."""
    samples = inputs.read(checks.only(body.inputs, "input"), target.shape, target.images)
    n = len(samples.x)
    given = answers.read(body.outputs, n, target.classes, target.output) if body.outputs else ServedAnswers()
    place = (about.key, about.traceparent, raw.topic, raw.partition, raw.offset)
    source, kind = sys.intern(about.source), sys.intern(about.type)  # many records keep one of each
    made = []
    for i, name in enumerate(_names(about.id, n)):
        x = samples.x[i].copy() if n > 1 else samples.x[i]  # a record that is kept keeps no batch
        identity = (source, name, kind)
        served, named = _answer(given, i)
        facts = (about.tenant, samples.form, about.version_name, named)
        made.append(Record(name, about.time_s, x, served, about.number, *place, identity, *facts))
    return made


def answered(found: Sequence[Record], given: ServedAnswers, **of_response: Any) -> list[Record]:
    """Samples of one request with the answers to them.

    Args:
        of_response: further fields that the response knows, for instance its version.
    """
    out = []
    for i, record in enumerate(found):
        served, named = _answer(given, i)
        out.append(replace(record, served=served, named=named, **of_response))
    return out


def _answer(given: ServedAnswers, i: int) -> tuple[Array | None, int | None]:
    """Outputs and class of one sample."""
    named = None if given.classes is None else int(given.classes[i])
    if given.outputs is None:
        return None, named
    return (given.outputs[i].copy() if len(given.outputs) > 1 else given.outputs[i]), named


def plain(raw: RawRecord, body: oip.Body, kind: str, join: str = "") -> Envelope:
    """Envelope of a record that is a body alone: its id is the body's, else the record's key.

    Raises:
        DecodeError: neither is an id, or a text of the body is none.
    """
    id, said = checks.text(body.id or key_text(raw), "id"), version(body.version)
    model = checks.text(body.model, "model_name") if body.model else ""
    return Envelope(id, model, kind, timestamp(raw), said, id, id, traceparent(raw), join)


def key_text(raw: RawRecord) -> str:
    """The record's key as text; empty where there is none.

    Raises:
        DecodeError: it is no text.
    """
    try:
        return (raw.key or b"").decode()
    except UnicodeDecodeError as error:
        raise DecodeError("id", f"there is no id, and the record's key is no text: {error}") from error


def version(said: str | None, reason: str = "model_version") -> int | str | None:
    """Version as a number of the registry, or as the name that the server gives it.

    Raises:
        DecodeError: longer than any name.
    """
    if not said:
        return None
    return int(said) if said.isascii() and said.isdecimal() and len(said) <= 18 else checks.text(said, reason)


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


def traceparent(raw: RawRecord) -> str | None:
    """Trace context in the header `traceparent`; None where malformed, as W3C asks."""
    hop = next((value for name, value in raw.headers if name.lower() == "traceparent" and value), None)
    return None if hop is None else well_formed(hop.decode("latin-1"))


def well_formed(trace: str) -> str | None:
    """A W3C trace context, or None where it is none."""
    return trace if _TRACEPARENT.fullmatch(trace) else None


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
