"""An OTLP/gRPC receiver in this process, from packages that the exporter needs anyway.

A test looks at what arrived here: the SDK's own `force_flush` says True without a collector too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeAlias

import grpc  # type: ignore[import-untyped,unused-ignore]
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Values: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Received:
    """One span, metric or log record and the resource that it came from."""

    item: Any
    resource: Values


class OtlpReceiver:
    """Listens on a free loopback port within a `with` block and keeps all spans, metrics and logs."""

    def __init__(self) -> None:
        self.received_spans: list[Received] = []
        self.received_metrics: list[Received] = []
        self.received_logs: list[Received] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        register: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        register(_Traces(self.received_spans), self._server)
        register = metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server
        register(_Metrics(self.received_metrics), self._server)
        register = logs_service_pb2_grpc.add_LogsServiceServicer_to_server
        register(_Logs(self.received_logs), self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> OtlpReceiver:
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        self._server.stop(None).wait()

    @property
    def spans(self) -> Sequence[Span]:
        """All spans, in the order of arrival."""
        return [received.item for received in list(self.received_spans)]

    def span(self, name: str) -> Span:
        """The one span of this name."""
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def metric(self, name: str) -> Metric | None:
        """The newest state of a metric."""
        found = [received.item for received in list(self.received_metrics) if received.item.name == name]
        return found[-1] if found else None

    def points(self, name: str) -> list[tuple[Values, Any]]:
        """Attributes and value of each series: a number, or the data point of a histogram."""
        metric = self.metric(name)
        if metric is None:
            return []
        kind = metric.WhichOneof("data")
        points = getattr(metric, str(kind)).data_points
        return [(values(p.attributes), p if kind == "histogram" else _number(p)) for p in points]

    def wait(self, arrived: Callable[[OtlpReceiver], object], timeout_s: float = 10.0) -> bool:
        """Whether it holds before the time is up."""
        deadline_s = time.monotonic() + timeout_s
        while not arrived(self):
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.01)
        return True


def values(attributes: Sequence[KeyValue]) -> Values:
    """Attributes as plain values."""
    return {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in attributes}


def _number(point: Any) -> float:
    return float(getattr(point, point.WhichOneof("value")))


class _Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, into: list[Received]) -> None:
        self._into = into

    def Export(self, request: Any, context: Any) -> Any:
        for group in request.resource_spans:
            resource = values(group.resource.attributes)
            self._into.extend(Received(span, resource) for scope in group.scope_spans for span in scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()


class _Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, into: list[Received]) -> None:
        self._into = into

    def Export(self, request: Any, context: Any) -> Any:
        for group in request.resource_metrics:
            resource = values(group.resource.attributes)
            self._into.extend(Received(m, resource) for scope in group.scope_metrics for m in scope.metrics)
        return metrics_service_pb2.ExportMetricsServiceResponse()


class _Logs(logs_service_pb2_grpc.LogsServiceServicer):
    def __init__(self, into: list[Received]) -> None:
        self._into = into

    def Export(self, request: Any, context: Any) -> Any:
        for group in request.resource_logs:
            resource = values(group.resource.attributes)
            self._into.extend(
                Received(line, resource) for scope in group.scope_logs for line in scope.log_records
            )
        return logs_service_pb2.ExportLogsServiceResponse()
