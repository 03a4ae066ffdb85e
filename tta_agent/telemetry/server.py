"""Telemetry of the embedded model server: a span for each request, and its metrics."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from opentelemetry.trace import SpanKind

from tta_agent.core import process
from tta_agent.telemetry import names, tap_counts
from tta_agent.telemetry.metrics import Attributes, Instruments
from tta_agent.telemetry.spans import Spans, Stage

if TYPE_CHECKING:
    from tta_agent.telemetry.export import Providers

_SCOPE = "tta_agent.server"
_METRICS = (*names.SERVER_METRICS, names.SWAPS, names.SWAP_DURATION, names.MODEL_INFO, names.NONFINITE)


class ServerTelemetry:
    """Spans and metrics of one server. Thread-safe; no call raises or waits for a collector."""

    def __init__(self, providers: Providers | None, service_version: str = "") -> None:
        self._providers = providers
        tracers, meters = (providers.tracer, providers.meter) if providers else (None, None)
        meter = meters.get_meter(_SCOPE, service_version) if meters else None
        self._metrics = Instruments(meter, _METRICS)
        self._spans = Spans(tracers.get_tracer(_SCOPE, service_version) if tracers else None, self._metrics)
        if meter is not None:
            tap_counts.create(meter)
            if process.resident_bytes() is not None:
                self._metrics.read(names.SERVER_MEMORY, lambda: process.resident_bytes() or 0)

    @classmethod
    def from_environment(cls, service_version: str) -> ServerTelemetry:
        """Telemetry as the OTEL_* variables ask for; metrics are kept for `exposition`, too.

        Raises:
            ConfigError: they cannot be understood.
        """
        from tta_agent.telemetry.export import build  # the SDK, only where it may be needed

        return cls(build(service_version, scraped=True, service="tta-agent-server"), service_version)

    @classmethod
    def off(cls) -> ServerTelemetry:
        """Telemetry that records nothing and costs next to nothing."""
        return cls(None)

    def exposition(self) -> bytes | None:
        """Metrics of now in the text format of Prometheus, or None where they are not kept for a scrape."""
        return self._providers.exposition() if self._providers else None

    def shutdown(self, timeout_s: float = 5.0) -> None:
        """Flush and stop; gives up after `timeout_s`. Idempotent."""
        providers, self._providers = self._providers, None
        if providers is not None:
            providers.shutdown(timeout_s)

    def watch(self, active: Callable[[], int], waiting: Callable[[], int]) -> None:
        """Observe the requests in progress, and those that wait for a worker."""
        self._metrics.read(names.SERVER_ACTIVE, active)
        self._metrics.read(names.SERVER_WAITING, waiting)

    def request(self, route: str, traceparent: str | None) -> AbstractContextManager[Stage]:
        """One request, in the trace that its caller has begun.

        Args:
            route: `names.INFER` or `names.LOAD`.
        """
        about: Attributes = {names.HTTP_METHOD: "POST", names.HTTP_ROUTE: route.removeprefix("POST ")}
        return self._spans.open(route, about, kind=SpanKind.SERVER, carrier=traceparent)

    def context(self) -> str | None:
        """Carrier of the request that is open (a W3C traceparent), or None."""
        return self._spans.carrier()

    def answered(self, status: int, duration_s: float, version: int | None) -> None:
        """Count an inference request.

        Args:
            version: that answered, or failed to; None where none was asked.
        """
        about: Attributes = {names.HTTP_STATUS: status}
        self._metrics.record(names.SERVER_DURATION, duration_s, {
            names.HTTP_METHOD: "POST", names.HTTP_ROUTE: names.INFER.removeprefix("POST "), **about,
        })  # fmt: skip
        known = {} if version is None else {names.MODEL_VERSION: version}
        self._metrics.add(names.SERVER_REQUESTS, 1, {**about, **known})

    def ran(self, samples: int) -> None:
        """Record one run of the model."""
        self._metrics.record(names.SERVER_BATCH, samples)

    def swap_done(self, result: str, duration_s: float) -> None:
        """Count an order to make a version live by result: activated or failed."""
        self._metrics.add(names.SWAPS, 1, {names.RESULT: result})
        self._metrics.record(names.SWAP_DURATION, duration_s)

    def model(self, version: int, sha256: str) -> None:
        """Record the live version."""
        self._metrics.set(names.MODEL_INFO, 1, {names.MODEL_VERSION: version, names.MODEL_SHA256: sha256})
