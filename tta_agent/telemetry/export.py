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
from types import ModuleType
from typing import TYPE_CHECKING, Literal, TypeAlias
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
from prometheus_client import CollectorRegistry, generate_latest, start_http_server

from tta_agent.core.errors import ConfigError, nearest
from tta_agent.telemetry import sdk_log

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import LogRecordExporter

Signal: TypeAlias = Literal["TRACES", "METRICS", "LOGS"]

_VALID = {
    "TRACES": ("otlp", "console", "none"),
    "METRICS": ("otlp", "console", "prometheus", "none"),
    "LOGS": ("otlp", "console", "none"),
}
_PROTOCOLS = ("grpc", "http/protobuf")

_log = logging.getLogger("tta_agent.telemetry.facade")


@dataclass(frozen=True, slots=True)
class Providers:
    """Providers of traces, metrics and logs.

    Attributes:
        exporters: of all of them.
        registry: of Prometheus, where metrics are kept for a scrape.
        prometheus: HTTP server of a scrape endpoint of its own.
    """

    tracer: TracerProvider | None
    meter: MeterProvider | None
    logger: LoggerProvider | None = None
    exporters: Sequence[SpanExporter | MetricExporter | LogRecordExporter] = ()
    registry: CollectorRegistry | None = None
    prometheus: WSGIServer | None = None

    def exposition(self) -> bytes | None:
        """Metrics of now in the text format of Prometheus, or None where they are not kept for a scrape."""
        return None if self.registry is None else generate_latest(self.registry)

    def flush(self, timeout_s: float) -> None:
        """Send the waiting data, for `timeout_s` at most. Whether it arrived is not known."""
        _in_time([p.force_flush for p in (self.tracer, self.meter, self.logger) if p is not None], timeout_s)

    def shutdown(self, timeout_s: float) -> None:
        """Flush and stop, for `timeout_s` at most; exports still under way then are given up."""
        if self.prometheus is not None:
            self.prometheus.shutdown()
            self.prometheus.server_close()
        if self.logger is not None:
            _logs().detach(self.logger)
        if _in_time([p.shutdown for p in (self.tracer, self.meter, self.logger) if p is not None], timeout_s):
            return
        for exporter in self.exporters:  # frees the threads that still wait for a dead collector
            _in_time([exporter.shutdown], 1.0)


def build(service_version: str, *, scraped: bool = False, service: str = "tta-agent") -> Providers | None:
    """Providers as the environment asks for; None where it asks for nothing.

    Args:
        scraped: metrics are kept for a scrape of a port of our own, unless OTEL_METRICS_EXPORTER is `none`.
        service: name of the service, where OTEL_SERVICE_NAME gives none.

    Raises:
        ConfigError: an unknown exporter or protocol, a value that the SDK refuses, a port in use.
    """
    if _env("OTEL_SDK_DISABLED").lower() == "true":
        return None
    traces, metrics, logs = _words("TRACES"), _words("METRICS"), _words("LOGS")
    if scraped and not _is_off("METRICS"):
        metrics.append("scraped")
    if not (traces or metrics or logs):
        return None
    sdk_log.tame()
    try:
        return _providers(traces, metrics, logs, _resource(service_version, service))
    except ValueError as error:
        raise ConfigError(f"OTEL_* variables: {error}") from error


def _providers(traces: list[str], metrics: list[str], logs: list[str], resource: Resource) -> Providers:
    span_exporters = [_span_exporter(word) for word in traces]
    metric_exporters = [_metric_exporter(word) for word in metrics if word not in ("prometheus", "scraped")]
    log_exporters = [_logs().exporter_of(word, grpc=_is_grpc("LOGS")) for word in logs]
    readers: list[MetricReader] = [PeriodicExportingMetricReader(exporter) for exporter in metric_exporters]
    registry, server = None, None
    if {"prometheus", "scraped"} & {*metrics}:
        registry = CollectorRegistry()
        server = _scrape_server(registry) if "prometheus" in metrics else None
        readers.insert(0, PrometheusMetricReader(registry=registry))
    tracer = TracerProvider(resource=resource, shutdown_on_exit=False) if traces else None
    for exporter in span_exporters:
        assert tracer is not None
        tracer.add_span_processor(BatchSpanProcessor(exporter))
    meter = MeterProvider(readers, resource, shutdown_on_exit=False) if metrics else None
    logger = _logs().provider_of(log_exporters, resource) if logs else None
    exporters = [*span_exporters, *metric_exporters, *log_exporters]
    return Providers(tracer, meter, logger, exporters, registry, server)


def _logs() -> ModuleType:
    """The export of logs, imported where it is asked for: it is a tenth of a second."""
    from tta_agent.telemetry import logs

    return logs


def _env(name: str) -> str:
    return os.environ.get(name, "").strip()


def _words(signal: Signal) -> list[str]:
    """The exporters of a signal; OTLP where nothing is said but an endpoint is (logs: only where they are named)."""
    variable = f"OTEL_{signal}_EXPORTER"
    if not _env(variable):
        return ["otlp"] if _endpoint(signal) and signal != "LOGS" else []
    words = [word.strip().lower() for word in _env(variable).split(",") if word.strip()]
    for word in words:
        if word not in _VALID[signal]:
            raise ConfigError(f"{variable}: no exporter {word!r}; {nearest(word, _VALID[signal])}")
    return [word for word in dict.fromkeys(words) if word != "none"]


def _is_off(signal: Signal) -> bool:
    return _env(f"OTEL_{signal}_EXPORTER").lower() == "none"


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


def _scrape_server(registry: CollectorRegistry) -> WSGIServer:
    host = _env("OTEL_EXPORTER_PROMETHEUS_HOST") or "localhost"
    port = _env("OTEL_EXPORTER_PROMETHEUS_PORT") or "9464"
    if not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"OTEL_EXPORTER_PROMETHEUS_PORT: {port!r} is no port; expected 0 to 65535")
    try:
        return start_http_server(int(port), host, registry)[0]
    except OSError as error:
        raise ConfigError(
            f"OTEL_EXPORTER_PROMETHEUS_HOST, _PORT: cannot serve {host}:{port}: {error}"
        ) from error


def _resource(service_version: str, service: str) -> Resource:
    resource = Resource.create({SERVICE_VERSION: service_version})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):  # the SDK's own default
        resource = resource.merge(Resource({SERVICE_NAME: service}))
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
