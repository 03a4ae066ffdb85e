"""Statistics of requests: counts since the start, latencies over a bounded window."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

_WINDOW = 4096


class Stats:
    """Statistics of one server. Not thread-safe: the event loop owns it."""

    def __init__(self) -> None:
        """Start at zero."""
        self._requests = self._failed = self._refused = 0
        self._latencies_s: deque[float] = deque(maxlen=_WINDOW)

    def count(self, status: int, latency_s: float) -> None:
        """Count an answer by its HTTP status: 500 and up as a failure of the server, 400 and up as refused."""
        self._requests += 1
        self._failed += status >= 500
        self._refused += 400 <= status < 500
        if status < 400:
            self._latencies_s.append(latency_s)

    def snapshot(self) -> dict[str, Any]:
        """Counts, and percentiles of the window, which are None while it is empty."""
        latencies_ms = np.array(self._latencies_s) * 1e3
        p50, p99 = np.percentile(latencies_ms, (50, 99)).tolist() if latencies_ms.size else (None, None)
        counts = {"requests": self._requests, "failed": self._failed, "refused": self._refused}
        return {**counts, "window": latencies_ms.size, "p50_ms": p50, "p99_ms": p99}
