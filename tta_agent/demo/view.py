"""Live view of the demo in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from tta_agent.core.events import Event
from tta_agent.demo.sparkline import LEVELS, sparkline
from tta_agent.demo.state import DemoState, line
from tta_agent.reports.words import (
    MOVES,
    VERDICTS,
    bounds,
    clean,
    clock,
    event_line,
    known,
    number,
    percent,
    seconds_since,
    words,
)

__all__ = ["DemoState", "bounds", "event_line", "line", "render", "words"]

LABEL, WIDTH, GATES, DECISIONS = 11, 100, 4, 5
BESIDE, NARROW = 34, 20  # columns beside a curve, and columns below which no time axis fits
SERVED, SOURCE, SOFT = "bold cyan", "dark_orange", "dim"


def render(state: DemoState) -> RenderableType:
    """A frame that is always as high, and at most 100 columns wide."""
    return Frame(state)


@dataclass(frozen=True, slots=True)
class Frame:
    """A state as lines of the console's width."""

    state: DemoState

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        width = min(options.max_width, WIDTH)
        for text in self._lines(width):
            text.no_wrap = True
            text.truncate(width, overflow="ellipsis")
            yield text

    def _lines(self, width: int) -> Iterator[Text]:
        state = self.state
        yield from (_headline(state, width), _traffic(state), Text(""))
        yield from _accuracies(state, width - LABEL - BESIDE)
        yield Text("")
        yield _row("agent", _agent(state.status))
        yield from _candidate(state.status, LABEL if width > 90 else 2)
        yield from _decisions(state)


def _row(label: str, *parts: str | Text | tuple[str, str]) -> Text:
    return Text.assemble((f"{label:<{LABEL}}", "bold"), *parts)


def _headline(state: DemoState, width: int) -> Text:
    left = Text.assemble(("tta-agent demo", "bold"), "  ")
    left.append(
        state.heading(max(width - 56, 16)), "bold dark_orange" if state.phase == "shifted" else "bold green"
    )
    right = f"  {clock(state.elapsed_s)} of {clock(state.duration_s)}"
    room = max(width - left.cell_len - len(right) - 2, 4)
    full = round(room * min(state.elapsed_s / state.duration_s, 1.0)) if state.duration_s > 0 else 0
    return Text.assemble(left, "  ", ("━" * full, "cyan"), ("╌" * (room - full), SOFT), right)


def _traffic(state: DemoState) -> Text:
    failed = (f"{state.failed:,} failed", "bold red" if state.failed else "green")
    speed = f"{number(state.rate_per_s, '{:.0f}')}/s · p50 {number(state.p50_ms, '{:.1f}')} ms"
    rest = f" · {speed} · p99 {number(state.p99_ms, '{:.1f}')} ms · {state.labels_sent:,} labels"
    return _row("traffic", f"{state.sent:,} sent · ", failed, rest)


def _accuracies(state: DemoState, columns: int) -> Iterator[Text]:
    columns, low_high = max(columns, 0), bounds(share for _, *pair in state.history for share in pair)
    served, source = state.served_accuracy, state.source_accuracy
    gap = f"  {100 * (served - source):+.1f} points" if known(served) and known(source) else ""
    version = f"version {number(state.serving_version, '{}')}"
    for label, note, i, share, style, end in (
        ("served", version, 1, served, SERVED, gap),
        ("frozen", "source", 2, source, SOURCE, ""),
    ):
        curve = sparkline(
            ((point[0], point[i]) for point in state.history), columns, state.span_s(), *low_high
        )
        yield _row(
            label, (f"{note:<11}", SOFT), (f"{percent(share):>6}", style), " ", (curve, style), (end, "bold")
        )
    scale = " ".join(f"{level} {share:.0%}" for level, share in zip(LEVELS[::7], low_high, strict=True))
    yield _row("", (f"{scale:<18}", SOFT), _axis(state, columns) if columns >= NARROW else "")


def _axis(state: DemoState, columns: int) -> Text:
    row = Text(f"{'0:00':<{columns}}", SOFT)
    end = clock(state.span_s())
    marks = [(columns - len(end), end, SOFT)]
    marks += [(_column(state, state.shifted_s, columns), "▲shift", SOURCE)] if known(state.shifted_s) else []
    for event in state.events:
        if event.get("event") in MOVES:
            said = f"▲{MOVES[event['event']]} {event.get('version', '?')}"
            marks.append((_column(state, seconds_since(event, state.started_s), columns), said, SERVED))
    for at, text, style in marks:
        at = max(min(at, columns - len(text)), 0)
        row = Text.assemble(row[:at], (text, style), row[at + len(text) :])
    return row


def _column(state: DemoState, t_s: float, columns: int) -> int:
    return int(t_s / state.span_s() * (columns - 1))


def _agent(status: Mapping[str, Any]) -> str:
    if not known(status.get("rounds")):
        return "waits for its first batch"
    kept, loss = number(status.get("kept"), "{:.0%}"), number(status.get("loss"), "{:.3f}")
    entropy = number(status.get("entropy"), "{:.2f}")
    return f"entropy {entropy} nats · {kept} kept · {status['rounds']} rounds · loss {loss}"


def _candidate(status: Mapping[str, Any], indent: int) -> Iterator[Text]:
    findings = sorted(status.get("findings") or [], key=lambda f: f.get("verdict") == "pass")[:GATES]
    yield _row("candidate", _tested(status))
    for finding in findings:
        said, style = VERDICTS.get(str(finding.get("verdict")), ("?", SOFT))
        gate, reason = clean(finding.get("gate", ""), 13), clean(finding.get("reason", ""))
        yield Text.assemble(" " * indent, (f"{said:<10}", style), f"{gate:<14}", reason)
    yield from [Text("")] * (GATES - len(findings))


def _tested(status: Mapping[str, Any]) -> str:
    trial, last = status.get("trial"), status.get("verdict") or {}
    if trial is not None:
        return f"version {trial} under test · {number(status.get('labels_used'), '{:,}')} labels used so far"
    if last:
        return f"none now; the last was version {last.get('version', '?')}: {clean(last.get('outcome', ''))}"
    return "none yet"


def _decisions(state: DemoState) -> Iterator[Text]:
    # a proposal is no decision yet, and the candidate has lines of its own
    shown = [event for event in state.events if event.get("event") != Event.CANDIDATE][-DECISIONS:]
    for i in range(DECISIONS):
        label = "decisions" if i == 0 else ""
        if i < len(shown):
            at = clock(seconds_since(shown[i], state.started_s))
            yield _row(label, (f"{at:>5}  ", SOFT), words(shown[i]))
        else:
            yield _row(label, ("none yet" if i == 0 else "", SOFT))
