"""Spans: parents by carrier, links by traceparent, and the handle of an open one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
)

from tta_agent.core.types import GateResult, StepReport
from tta_agent.telemetry import names
from tta_agent.telemetry.metrics import Attributes, Instruments

MAX_LINKS = 128  # the SDK's default limit: what is above it would be lost without a count

_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)


class Stage:
    """An open span; its methods record the results of the stage."""

    __slots__ = ("_instruments", "_span")

    def __init__(self, span: Span, instruments: Instruments) -> None:
        self._span = span
        self._instruments = instruments

    def selected(self, kept: int, total: int) -> None:
        """Record the number of samples that teach, and of all."""
        self._span.set_attributes({names.SELECT_KEPT: kept, names.SELECT_TOTAL: total})

    def adapted(self, report: StepReport) -> None:
        """Record the report of a step."""
        self._span.set_attribute(names.ADAPT_USED, report.used)
        if report.diagnostics.get("nonfinite"):
            self._instruments.add(names.NONFINITE, 1, {names.PLACE: names.ADAPT})
        if report.loss is None:
            return
        self._span.set_attribute(names.LOSS, report.loss)
        self._instruments.add(names.ADAPT_STEPS, 1)
        self._instruments.set(names.ADAPT_LOSS, report.loss)

    def finding(self, finding: GateResult) -> None:
        """Record one gate's result: an event of the span and a count."""
        counted = {names.GATE_NAME: finding.gate, names.GATE_VERDICT: finding.verdict}
        numbers = {names.GATE_VALUE: finding.value, names.GATE_THRESHOLD: finding.threshold}
        self._span.add_event(names.FINDING, {**counted, **numbers})
        self._instruments.add(names.GATE_CHECKS, 1, counted)

    def answered(self, status: int, numbers: Attributes) -> None:
        """Record the HTTP status of an answer, and what is known of it; from 500 up the span has failed."""
        self._span.set_attributes({names.HTTP_STATUS: status, **numbers})
        if status >= 500:
            self._span.set_attribute(names.ERROR_TYPE, str(status))
            self._span.set_status(StatusCode.ERROR)

    def exported(self, sha256: str, size_bytes: int) -> None:
        """Record hash and size of the exported graph."""
        self._span.set_attributes({names.EXPORT_SHA256: sha256, names.EXPORT_BYTES: size_bytes})


class Spans:
    """Factory of spans with one tracer; without one, stages record metrics alone."""

    def __init__(self, tracer: Tracer | None, instruments: Instruments) -> None:
        self.version: int | None = None
        self._tracer = tracer
        self._silent = Stage(trace.INVALID_SPAN, instruments)
        self._instruments = instruments

    @contextmanager
    def open(
        self,
        name: str,
        attributes: Attributes | None = None,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        carrier: str | None = None,
        links: Sequence[Link] = (),
        start_s: float | None = None,
    ) -> Iterator[Stage]:
        """Open a span under the carrier, or else under the span that is open on this thread."""
        if self._tracer is None:
            yield self._silent
            return
        stamp = {} if self.version is None else {names.MODEL_VERSION: self.version}
        start_ns = None if start_s is None else int(start_s * 1e9)
        with self._tracer.start_as_current_span(
            name, _parent(carrier), kind, {**stamp, **(attributes or {})}, links, start_ns
        ) as span:
            try:
                yield Stage(span, self._instruments)
            except Exception as error:
                span.set_attribute(names.ERROR_TYPE, type(error).__name__)
                raise

    def links(self, traceparents: Sequence[str | None]) -> tuple[Sequence[Link], int]:
        """Links to the first 128 different sampled contexts, and how many different ones are left out."""
        if self._tracer is None:
            return (), 0
        different = dict.fromkeys(t for t in traceparents if t)
        contexts = (parse_traceparent(t) for t in different)
        sampled = (c for c in contexts if c is not None and c.trace_flags.sampled)
        links = [Link(c) for c in islice(sampled, MAX_LINKS)]
        return links, len(different) - len(links)

    def carrier(self) -> str | None:
        """The traceparent of the span that is open on this thread."""
        return None if self._tracer is None else current_traceparent()


def current_traceparent() -> str | None:
    """The W3C trace context of the span that is open here, whoever opened it; None: there is none."""
    c = trace.get_current_span().get_span_context()
    return f"00-{c.trace_id:032x}-{c.span_id:016x}-{c.trace_flags:02x}" if c.is_valid else None


def parse_traceparent(traceparent: str) -> SpanContext | None:
    """The W3C trace context, or None where it is not one."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or (match[1] == "00" and match[5]):  # only later versions may go on
        return None
    flags = TraceFlags(int(match[4], 16))
    return SpanContext(int(match[2], 16), int(match[3], 16), is_remote=True, trace_flags=flags)


def _parent(carrier: str | None) -> Context | None:
    parent = parse_traceparent(carrier) if carrier else None
    return None if parent is None else trace.set_span_in_context(NonRecordingSpan(parent))
