"""Log of the OpenTelemetry SDK, cut to a line a minute and source: exporters never disturb the caller."""

from __future__ import annotations

import logging
import time

EVERY_S = 60.0
_log = logging.getLogger("tta_agent.telemetry.facade")


class OneLine(logging.Handler):
    """Repeats what the SDK logs as single lines, at most one a minute from each of its modules."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._last_s: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Repeat one line, where its source has not been heard for a minute."""
        now_s = time.monotonic()
        if now_s - self._last_s.get(record.name, -EVERY_S) >= EVERY_S:
            self._last_s[record.name] = now_s
            cause = record.exc_info[1] if record.exc_info else None
            text = record.getMessage() if cause is None else f"{record.getMessage()} {cause!r}"
            _log.warning("telemetry: %s", text.partition("\n")[0])


def tame() -> None:
    """Have the SDK log through `OneLine` alone. Idempotent."""
    logger = logging.getLogger("opentelemetry")
    if not any(isinstance(handler, OneLine) for handler in logger.handlers):
        logger.addHandler(OneLine())
        logger.propagate = False
