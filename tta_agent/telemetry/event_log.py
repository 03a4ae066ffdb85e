"""Event log `events.jsonl`, one line a decision, and `status.json` with the present numbers."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STATUS_EVERY_S = 0.5
log = logging.getLogger(__name__)


@contextlib.contextmanager
def _forgiving() -> Iterator[None]:
    """A full disk is told, and the agent goes on."""
    try:
        yield
    except OSError as error:
        log.warning("the journal cannot be written: %s", error)


class EventLog:
    """Two small files under the store. Thread-safe; a file that cannot be written is logged, no more."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._events = folder / "events.jsonl"
        self._status = folder / "status.json"
        self._now: dict[str, Any] = {}
        self._written_s, self._unwritten = 0.0, False
        self._lock = threading.Lock()

    def event(self, name: str, **data: Any) -> None:
        """Append one decision."""
        line = json.dumps({"time": time.time(), "event": name, **data}, default=str)
        with self._lock, _forgiving(), self._events.open("a") as file:
            file.write(line + "\n")

    def read_events(self) -> list[dict[str, Any]]:
        """Decisions so far."""
        if not self._events.exists():
            return []
        return [json.loads(line) for line in self._events.read_text().splitlines()]

    def now(self) -> dict[str, Any]:
        """Present numbers by name."""
        with self._lock:
            return dict(self._now)

    def status(self, **numbers: Any) -> None:
        """Update the present numbers; written at most twice a second, then with the next call."""
        with self._lock, _forgiving():
            self._now.update(numbers)
            self._unwritten = self._unwritten or bool(numbers)
            if self._unwritten and time.monotonic() - self._written_s >= STATUS_EVERY_S:
                self._write()

    def flush(self) -> None:
        """Write the present numbers, if they are not in the file."""
        with self._lock, _forgiving():
            if self._unwritten:
                self._write()

    def _write(self) -> None:
        self._written_s, self._unwritten = time.monotonic(), False
        draft = self._status.with_suffix(".tmp")
        draft.write_text(json.dumps({"time": time.time(), **self._now}, default=str))
        draft.replace(self._status)
