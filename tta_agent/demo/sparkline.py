"""Curves in block characters for a terminal: one character a stretch of time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tta_agent.reports.words import known

LEVELS = "▁▂▃▄▅▆▇█"


def sparkline(
    points: Iterable[tuple[float, Any]], columns: int, span_s: float, low: float, high: float
) -> str:
    """Values low .. high over the time 0 .. span_s, blank before the first known value and after the last."""
    seen = [(t, float(value)) for t, value in points if known(value)]
    if not seen:
        return " " * columns
    times, values = np.array(seen).T
    found = np.interp(np.linspace(0, span_s, columns), times, values, left=np.nan, right=np.nan)
    shares = np.clip((found - low) / (high - low), 0, 1) * (len(LEVELS) - 1)
    return "".join(" " if np.isnan(share) else LEVELS[round(share)] for share in shares.tolist())
