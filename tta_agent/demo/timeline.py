"""Result of a demo over time, for the picture and for the page's chart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tta_agent.demo.summary import Result
from tta_agent.reports.words import MOVES, bounds, clean, known

MOST_POINTS, MOST_EVENTS = 400, 100


def points(result: Result, most: int = MOST_POINTS) -> list[dict[str, Any]]:
    """Rows of the timeline, thinned to at most `most`; a value that is no finite number is None."""
    names = ("served", "source", "version", "entropy", "kept")
    rows = [row for row in result.get("timeline") or [] if known(row.get("t"))]
    thin = rows[:: max(math.ceil(len(rows) / most), 1)]
    return [{"t": row["t"]} | {n: row.get(n) if known(row.get(n)) else None for n in names} for row in thin]


def shares(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Range of an axis for both accuracies."""
    return bounds(row[name] for row in rows for name in ("served", "source"))


def highest(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """Upper end of an axis that begins at zero."""
    return 1.1 * max([float(row[name]) for row in rows if row[name] is not None] + [0.1])


def shift_s(result: Result) -> float | None:
    """Beginning of the shift in seconds, or None."""
    started_s = (result.get("shift") or {}).get("started_s")
    return float(started_s) if known(started_s) else None


@dataclass(frozen=True, slots=True)
class Move:
    """A change of the serving version; `row` is 1 where its label would touch the one before it."""

    t_s: float
    kind: str
    version: str
    row: int

    @property
    def label(self) -> str:
        """Label in the chart."""
        return f"{MOVES[self.kind]} to {self.version}"


def moves(result: Result) -> list[Move]:
    """The latest changes of the serving version, at most MOST_EVENTS."""
    found: list[Move] = []
    near_s = 0.1 * span_s(result)
    known_moves = [e for e in result.get("events") or [] if e.get("event") in MOVES and known(e.get("t"))]
    for event in known_moves[-MOST_EVENTS:]:
        t = float(event["t"])
        near = bool(found) and t - found[-1].t_s < near_s
        version = clean(event.get("version"), 12)
        found.append(Move(t, event["event"], version, int(near and not found[-1].row)))
    return found


def span_s(result: Result) -> float:
    """Length of the time axis in seconds."""
    ends = [row["t"] for row in points(result)] + [result.get("seconds")]
    return max([float(end) for end in ends if known(end)] + [1.0])


def ticks(span: float) -> list[float]:
    """Round times from 0 to `span`, ten at most."""
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800)
    step = next((step for step in steps if span / step <= 9), math.ceil(span / 9))
    return [float(i * step) for i in range(int(span / step) + 1)]
