"""Providers and exporters of telemetry, built from the standard OTEL_* variables alone.

No global provider is set, so that several can live in one process. The exporters never disturb the caller:
they run on threads of the SDK, and what these log is cut to one line a minute and source, without tracebacks.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias
from wsgiref.simple_server import WSGIServer

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricExporter,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from prometheus_client import CollectorRegistry, start_http_server

from tta_agent.core.errors import ConfigError, nearest

Signal: TypeAlias = Literal["TRACES", "METRICS"]

_VALID = {"TRACES": ("otlp", "console", "none"), "METRICS": ("otlp", "console", "prometheus", "none")}
_PROTOCOLS = ("grpc", "http/protobuf")
_LOG_EVERY_S = 60.0

_log = logging.getLogger("tta_agent.telemetry.facade")


@dataclass(frozen=True, slots=True)
class Providers:
    """Providers of traces and metrics. `prometheus` is the HTTP server of the scrape endpoint."""

    tracer: TracerProvider | None
    meter: MeterProvider | None
    exporters: Sequence[SpanExporter | MetricExporter] = ()
    prometheus: WSGIServer | None = None

    def flush(self, timeout_s: float) -> None:
        """Send the waiting data, for `timeout_s` at most. Whether it arrived is not known."""
        _in_time([p.force_flush for p in (self.tracer, self.meter) if p is not None], timeout_s)

    def shutdown(self, timeout_s: float) -> None:
        """Flush and stop, for `timeout_s` at most; exports still under way then are given up."""
        if self.prometheus is not None:
            self.prometheus.shutdown()
            self.prometheus.server_close()
        if _in_time([p.shutdown for p in (self.tracer, self.meter) if p is not None], timeout_s):
            return
        for exporter in self.exporters:  # frees the threads that still wait for a dead collector
            _in_time([exporter.shutdown], 1.0)


def build(service_version: str) -> Providers | None:
    """Providers as the environment asks for; None where it asks for nothing.

    Raises:
        ConfigError: an unknown exporter or protocol, a value that the SDK refuses, a port in use.
    """
    if _env("OTEL_SDK_DISABLED").lower() == "true":
        return None
    traces, metrics = _words("TRACES"), _words("METRICS")
    if not traces and not metrics:
        return None
    _tame_logs()
    try:
        return _providers(traces, metrics, _resource(service_version))
    except ValueError as error:
        raise ConfigError(f"OTEL_* variables: {error}") from error


def _providers(traces: list[str], metrics: list[str], resource: Resource) -> Providers:
    readers: list[MetricReader] = []
    server = None
    if "prometheus" in metrics:
        reader, server = _prometheus()
        readers.append(reader)
    span_exporters = [_span_exporter(word) for word in traces]
    metric_exporters = [_metric_exporter(word) for word in metrics if word != "prometheus"]
    readers += [PeriodicExportingMetricReader(exporter) for exporter in metric_exporters]
    tracer = TracerProvider(resource=resource, shutdown_on_exit=False) if traces else None
    for exporter in span_exporters:
        assert tracer is not None
        tracer.add_span_processor(BatchSpanProcessor(exporter))
    meter = MeterProvider(readers, resource, shutdown_on_exit=False) if metrics else None
    return Providers(tracer, meter, [*span_exporters, *metric_exporters], server)


def _env(name: str) -> str:
    return os.environ.get(name, "").strip()


def _words(signal: Signal) -> list[str]:
    """The exporters of a signal; OTLP where nothing is said but an endpoint is."""
    variable = f"OTEL_{signal}_EXPORTER"
    if not _env(variable):
        return ["otlp"] if _endpoint(signal) else []
    words = [word.strip().lower() for word in _env(variable).split(",") if word.strip()]
    for word in words:
        if word not in _VALID[signal]:
            raise ConfigError(f"{variable}: no exporter {word!r}; {nearest(word, _VALID[signal])}")
    return [word for word in dict.fromkeys(words) if word != "none"]


def _endpoint(signal: Signal) -> str:
    return _env(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or _env("OTEL_EXPORTER_OTLP_ENDPOINT")


def _is_grpc(signal: Signal) -> bool:
    """The protocol asked for; unset, gRPC at its registered port 4317 and else HTTP, the default."""
    variable = f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL"
    if not _env(variable):
        variable = "OTEL_EXPORTER_OTLP_PROTOCOL"
    protocol = _env(variable).lower()
    if protocol and protocol not in _PROTOCOLS:
        raise ConfigError(f"{variable}: no protocol {protocol!r}; {nearest(protocol, _PROTOCOLS)}")
    return protocol == "grpc" or (not protocol and _endpoint(signal).rstrip("/").endswith(":4317"))


def _span_exporter(word: str) -> SpanExporter:
    if word == "console":
        return ConsoleSpanExporter(out=sys.stdout)
    # Imported here: gRPC alone takes longer to import than the rest of the agent's telemetry.
    if _is_grpc("TRACES"):
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc

        return Grpc()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http

    return Http()


def _metric_exporter(word: str) -> MetricExporter:
    if word == "console":
        return ConsoleMetricExporter(out=sys.stdout)
    if _is_grpc("METRICS"):
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as Grpc

        return Grpc()
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as Http

    return Http()


def _prometheus() -> tuple[MetricReader, WSGIServer]:
    host = _env("OTEL_EXPORTER_PROMETHEUS_HOST") or "localhost"
    port = _env("OTEL_EXPORTER_PROMETHEUS_PORT") or "9464"
    if not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"OTEL_EXPORTER_PROMETHEUS_PORT: {port!r} is no port; expected 0 to 65535")
    registry = CollectorRegistry()
    try:
        server, _ = start_http_server(int(port), host, registry)
    except OSError as error:
        raise ConfigError(
            f"OTEL_EXPORTER_PROMETHEUS_HOST, _PORT: cannot serve {host}:{port}: {error}"
        ) from error
    return PrometheusMetricReader(registry=registry), server


def _resource(service_version: str) -> Resource:
    resource = Resource.create({SERVICE_VERSION: service_version})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):  # the SDK's own default
        resource = resource.merge(Resource({SERVICE_NAME: "tta-agent"}))
    return resource


def _in_time(jobs: Sequence[Callable[[], object]], timeout_s: float) -> bool:
    """Run jobs side by side; False where one has not ended in time. Their errors are logged in one line."""

    def run(job: Callable[[], object]) -> None:
        try:
            job()
        except Exception as error:
            _log.warning("telemetry: %s: %s", type(error).__name__, error)

    threads = [threading.Thread(target=run, args=(job,), daemon=True) for job in jobs]
    deadline_s = time.monotonic() + timeout_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline_s - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


class _OneLine(logging.Handler):
    """Repeats what the SDK logs as single lines, at most one a minute from each of its modules."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._last_s: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        now_s = time.monotonic()
        if now_s - self._last_s.get(record.name, -_LOG_EVERY_S) >= _LOG_EVERY_S:
            self._last_s[record.name] = now_s
            cause = record.exc_info[1] if record.exc_info else None
            text = record.getMessage() if cause is None else f"{record.getMessage()} {cause!r}"
            _log.warning("telemetry: %s", text.partition("\n")[0])


def _tame_logs() -> None:
    logger = logging.getLogger("opentelemetry")
    if not any(isinstance(handler, _OneLine) for handler in logger.handlers):
        logger.addHandler(_OneLine())
        logger.propagate = False
