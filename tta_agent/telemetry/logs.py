"""Export of the agent's log lines as OpenTelemetry log records, beside those on stderr."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Sequence

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    ConsoleLogRecordExporter,
    LogRecordExporter,
)
from opentelemetry.sdk.resources import Resource

SEVERITIES = (
    (logging.CRITICAL, SeverityNumber.FATAL),
    (logging.ERROR, SeverityNumber.ERROR),
    (logging.WARNING, SeverityNumber.WARN),
    (logging.INFO, SeverityNumber.INFO),
    (logging.NOTSET, SeverityNumber.DEBUG),
)


class LogHandler(logging.Handler):
    """Handler of the root logger that hands records to a provider, in the context of the span that is open."""

    def __init__(self, provider: LoggerProvider) -> None:
        super().__init__(logging.INFO)
        self._provider = provider

    def emit(self, record: logging.LogRecord) -> None:
        """Hand one record on; a failure goes to `logging.Handler.handleError`, as always."""
        try:
            self._provider.get_logger(record.name).emit(_translated(record))
        except Exception:
            self.handleError(record)


def provider_of(exporters: Sequence[LogRecordExporter], resource: Resource) -> LoggerProvider:
    """Provider that is fed by the root logger until `detach`."""
    provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    logging.getLogger().addHandler(LogHandler(provider))
    return provider


def detach(provider: LoggerProvider) -> None:
    """Take the provider's handler off the root logger."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, LogHandler) and h._provider is provider]:
        root.removeHandler(handler)


def exporter_of(word: str, *, grpc: bool) -> LogRecordExporter:
    """Exporter by the word of OTEL_LOGS_EXPORTER: console, or otlp by the protocol that the variables name."""
    if word == "console":
        return ConsoleLogRecordExporter(out=sys.stdout)
    if grpc:  # imported here: gRPC alone takes longer to import than the rest of the agent's telemetry
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as Grpc

        return Grpc()
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as Http

    return Http()


def _translated(record: logging.LogRecord) -> LogRecord:
    severity = next(number for level, number in SEVERITIES if record.levelno >= level)
    return LogRecord(
        timestamp=int(record.created * 1e9),
        observed_timestamp=time.time_ns(),
        severity_text=record.levelname,
        severity_number=severity,
        body=record.getMessage(),
        attributes=_exception(record),
    )


def _exception(record: logging.LogRecord) -> dict[str, str]:
    """Attributes of the exception by the semantic conventions; none where there is no exception."""
    kind, error, trace = record.exc_info or (None, None, None)
    if kind is None:
        return {}
    stack = "".join(traceback.format_exception(kind, error, trace))
    return {
        "exception.type": kind.__name__,
        "exception.message": str(error),
        "exception.stacktrace": stack,
    }
