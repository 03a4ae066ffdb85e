"""State of the demo at one moment, for the live view and as a line of a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tta_agent.reports.words import LogLine, clean, clock, number, percent

Point: TypeAlias = tuple[float, float | None, float | None]  # seconds, served, source


@dataclass(slots=True)
class DemoState:
    """State of the demo at one moment.

    Attributes:
        served_accuracy, source_accuracy: of the answers served lately, and of the frozen source on the same records.
        history: seconds, served, source; one point a second.
        status, events: `status.json` and `events.jsonl` of the agent, newest event last.
        started_s: epoch seconds at which the demo began; events are shown relative to it.
        shifted_s: seconds since then at which the shift began.
    """

    elapsed_s: float = 0.0
    duration_s: float = 0.0
    phase: str = "clean"
    shift_name: str = ""
    sent: int = 0
    failed: int = 0
    rate_per_s: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    served_accuracy: float | None = None
    source_accuracy: float | None = None
    history: Sequence[Point] = field(default_factory=list)
    serving_version: int | None = None
    labels_sent: int = 0
    status: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[LogLine] = field(default_factory=list)
    started_s: float = 0.0
    shifted_s: float | None = None

    def span_s(self) -> float:
        """Length of the time axis."""
        return max(self.duration_s, self.elapsed_s, 1.0)

    def heading(self, most: int = 60) -> str:
        """Phase and shift in words; a name of at most `most` characters."""
        shifted = self.phase == "shifted"
        return f"shifted: {clean(self.shift_name, most)}" if shifted else clean(self.phase, most)


def line(state: DemoState) -> str:
    """The state in one line, for a log."""
    parts = [
        f"{clock(state.elapsed_s):>6}  {state.heading()}",
        f"served {percent(state.served_accuracy)}, frozen source {percent(state.source_accuracy)}",
        f"version {number(state.serving_version, '{}')}",
        f"{state.sent:,} sent, {state.failed:,} failed",
        f"p99 {number(state.p99_ms, '{:.1f} ms')}",
        f"entropy {number(state.status.get('entropy'), '{:.2f}')}",
    ]
    trial = state.status.get("trial")
    return " | ".join(parts + ([f"version {trial} under test"] if trial is not None else []))
