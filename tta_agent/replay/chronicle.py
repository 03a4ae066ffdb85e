"""The event log of a replay, with the record at which each event came."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tta_agent.core.events import Event


class Chronicle:
    """Reader of the agent's `events.jsonl` that stamps each line with its record.

    An event carries `record` (records played so far, up to one poll late), `t` (recorded seconds since the first
    record) and `labels_used` so far, instead of the wall clock's time.
    """

    def __init__(self, store: Path) -> None:
        self._path = store / "events.jsonl"
        self._read_bytes = 0
        self.events: list[dict[str, Any]] = []

    def look(self, record: int, t: float, labels_used: int) -> None:
        """Read the lines written since the last look, and stamp them."""
        if not self._path.exists() or self._path.stat().st_size == self._read_bytes:
            return
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            text = file.read()
        self._read_bytes += len(text)
        for line in text.splitlines():
            event = json.loads(line)
            event.pop("time", None)
            self.events.append({**event, "record": record, "t": round(t, 3), "labels_used": labels_used})

    def named(self, event: Event) -> list[dict[str, Any]]:
        """All lines of one event, under its name of today or of before 0.2."""
        return [line for line in self.events if line["event"] in (event, event.former)]

    def labels_per_swap(self) -> float | None:
        """Labels used before the last swap, divided by the number of swaps; None without a swap."""
        swaps = self.named(Event.SWAP)
        return swaps[-1]["labels_used"] / len(swaps) if swaps else None
