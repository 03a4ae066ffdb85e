"""What a person sees in a terminal while the demo runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from tta_agent.demo.braille import Grid
from tta_agent.demo.scene import Scene, line
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

__all__ = ["Scene", "bounds", "event_line", "line", "render", "words"]

LABEL, WIDTH, CHART_ROWS, GATES, DECISIONS = 11, 100, 5, 4, 5
SERVED, SOURCE, SOFT = "bold cyan", "dark_orange", "dim"
DOTS = "⢕"  # the frozen source's texture: the chart must read without colour


def render(scene: Scene) -> RenderableType:
    """The moment as a frame of always the same height, at most 100 columns wide."""
    return Frame(scene)


@dataclass(frozen=True, slots=True)
class Frame:
    """A scene that knows how to draw itself at the console's width."""

    scene: Scene

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        width = min(options.max_width, WIDTH)
        for text in self._lines(width):
            text.no_wrap = True
            text.truncate(width, overflow="ellipsis")
            yield text

    def _lines(self, width: int) -> Iterator[Text]:
        scene = self.scene
        yield from (_headline(scene, width), _traffic(scene), Text(""))
        yield from _accuracies(scene, width)
        yield from _chart(scene, width - LABEL)
        yield _axis(scene, width - LABEL)
        yield Text("")
        yield _row("agent", _agent(scene.status))
        yield from _candidate(scene.status, LABEL if width > 90 else 2)
        yield from _decisions(scene)


def _row(label: str, *parts: str | Text | tuple[str, str]) -> Text:
    return Text.assemble((f"{label:<{LABEL}}", "bold"), *parts)


def _headline(scene: Scene, width: int) -> Text:
    left = Text.assemble(("tta-agent demo", "bold"), "  ")
    left.append(
        scene.act(max(width - 56, 16)), "bold dark_orange" if scene.phase == "shifted" else "bold green"
    )
    right = f"  {clock(scene.elapsed_s)} of {clock(scene.duration_s)}"
    room = max(width - left.cell_len - len(right) - 2, 4)
    full = round(room * min(scene.elapsed_s / scene.duration_s, 1.0)) if scene.duration_s > 0 else 0
    return Text.assemble(left, "  ", ("━" * full, "cyan"), ("╌" * (room - full), SOFT), right)


def _traffic(scene: Scene) -> Text:
    failed = (f"{scene.failed:,} failed", "bold red" if scene.failed else "green")
    speed = f"{number(scene.rate_per_s, '{:.0f}')}/s · p50 {number(scene.p50_ms, '{:.1f}')} ms"
    rest = f" · {speed} · p99 {number(scene.p99_ms, '{:.1f}')} ms · {scene.labels_sent:,} labels"
    return _row("traffic", f"{scene.sent:,} sent · ", failed, rest)


def _accuracies(scene: Scene, width: int) -> Iterator[Text]:
    served, source, room = scene.served_accuracy, scene.source_accuracy, width - LABEL - 34
    gap = f"  {100 * (served - source):+.1f} points" if known(served) and known(source) else ""
    version = f"version {number(scene.serving_version, '{}')}"
    for label, note, share, mark, style, end in (
        ("served", version, served, "━", SERVED, gap),
        ("frozen", "source", source, DOTS, SOURCE, ""),
    ):
        full = round(room * min(max(share, 0.0), 1.0)) if known(share) else 0
        bar = Text.assemble((mark * full, style), ("╌" * (room - full), SOFT))
        yield _row(label, (f"{note:<11}", SOFT), (f"{percent(share):>6}", style), " ", bar, (end, "bold"))


def _chart(scene: Scene, width: int) -> Iterator[Text]:
    low, high = bounds(share for _, *pair in scene.history for share in pair)
    grid = Grid(width, CHART_ROWS, scene.span_s(), low, high)
    served = grid.curve((t, share) for t, share, _ in scene.history)
    source = grid.area((t, share) for t, _, share in scene.history)
    for y in range(CHART_ROWS):
        edge = {0: f"{high:.0%}", CHART_ROWS - 1: f"{low:.0%}"}.get(y, "")
        row = Text.assemble((f"{edge:>{LABEL - 2}} {'┤' if edge else '│'}", SOFT))
        for over, under in zip(served[y], source[y], strict=True):
            row.append(over or under or " ", SERVED if over else SOURCE)
        yield row


def _axis(scene: Scene, width: int) -> Text:
    row = Text(f"{'0:00':<{width}}", SOFT)
    end = clock(scene.span_s())
    marks = [(width - len(end), end, SOFT)]
    marks += [(_column(scene, scene.shifted_s, width), "▲shift", SOURCE)] if known(scene.shifted_s) else []
    for event in scene.events:
        if event.get("event") in MOVES:
            said = f"▲{MOVES[event['event']]} {event.get('version', '?')}"
            marks.append((_column(scene, seconds_since(event, scene.started_s), width), said, SERVED))
    for at, text, style in marks:
        at = max(min(at, width - len(text)), 0)
        row = Text.assemble(row[:at], (text, style), row[at + len(text) :])
    return Text.assemble(" " * LABEL, row)


def _column(scene: Scene, t_s: float, width: int) -> int:
    return int(t_s / scene.span_s() * (width - 1))


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


def _decisions(scene: Scene) -> Iterator[Text]:
    # a proposal is no decision yet, and the candidate has lines of its own
    told = [event for event in scene.events if event.get("event") != "candidate"][-DECISIONS:]
    for i in range(DECISIONS):
        label = "decisions" if i == 0 else ""
        if i < len(told):
            at = clock(seconds_since(told[i], scene.started_s))
            yield _row(label, (f"{at:>5}  ", SOFT), words(told[i]))
        else:
            yield _row(label, ("none yet" if i == 0 else "", SOFT))
