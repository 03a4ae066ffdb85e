"""What a person sees while the demo runs: a frame for terminals, lines for everything else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from tta_agent.types import Array

Event: TypeAlias = Mapping[str, Any]
Point: TypeAlias = tuple[float, float | None, float | None]  # seconds, served, source

DASH = "–"
LABEL, WIDTH, CHART_ROWS, GATES, DECISIONS = 11, 100, 5, 4, 5
SERVED, SOURCE, SOFT = "bold cyan", "dark_orange", "dim"
DOTS = "⢕"  # the frozen source's texture: the chart must read without colour
PASS, FAIL, OPEN = ("✓ pass", "green"), ("✗ fail", "bold red"), ("· not yet", "yellow")
VERDICTS = {"pass": PASS, "fail": FAIL, "inconclusive": OPEN}
BRAILLE = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])


@dataclass(slots=True)
class Scene:
    """Everything that is known at one moment.

    Attributes:
        served_accuracy, source_accuracy: of the answers served lately, and of the frozen source on the same.
        history: seconds, served, source; one point a second.
        status, events: what the agent's journal holds, newest event last.
        started_s: epoch seconds at which the demo began; events are told relative to it.
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
    events: Sequence[Event] = field(default_factory=list)
    started_s: float = 0.0
    shifted_s: float | None = None


def known(value: Any) -> TypeGuard[float]:
    """A finite number."""
    return isinstance(value, Real) and math.isfinite(value)


def number(value: Any, form: str) -> str:
    """The number in this form, or a dash where there is none."""
    return form.format(value) if known(value) else DASH


def percent(value: Any) -> str:
    """A share, for people."""
    return number(value, "{:.1%}")


def clock(seconds: Any) -> str:
    """Minutes and seconds."""
    if not known(seconds):
        return DASH
    minutes, rest = divmod(int(max(seconds, 0.0)), 60)
    return f"{minutes}:{rest:02d}"


def clean(text: Any, most: int = 300) -> str:
    """One line without control characters: reasons may come from anywhere."""
    if text is None:
        return DASH
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def seconds_since(event: Event, started_s: float) -> float:
    """When it happened, seconds since the start."""
    t = event.get("t")
    return float(t) if known(t) else float(event.get("time") or started_s) - started_s


def bounds(values: Iterable[Any]) -> tuple[float, float]:
    """A range of whole tens of percent that holds all of these shares."""
    shares = [value for value in values if known(value)] or [0.0, 1.0]
    low = max(math.floor(min(shares) * 10 - 0.3) / 10, 0.0)
    high = min(math.ceil(max(shares) * 10 + 0.3) / 10, 1.0)
    return (low, high) if high - low > 0.15 else (max(high - 0.2, 0.0), max(high, 0.2))


def words(event: Event) -> str:
    """One decision in a sentence."""
    version = event.get("version", "?")
    match event.get("event"):
        case "candidate":
            said = f"version {version} proposed after {event.get('rounds', '?')} rounds"
        case "verdict":
            said = f"version {version} {_outcome(event)}"
        case "swap":
            milliseconds = number((event.get("seconds") or 0) * 1000, "{:.0f} ms")
            said = f"swapped {event.get('before', '?')} -> {version} in {milliseconds}"
        case "swap_failed":
            said = f"swap failed, the version before serves on: {event.get('error', '')}"
        case "rollback":
            said = f"rolled back to version {version}"
        case "reset":
            said = "adaptation starts over from the source"
        case "resumed":
            said = f"resumed after {event.get('rounds', '?')} rounds"
        case name:
            said = str(name).replace("_", " ")
    return clean(said)


def _outcome(event: Event) -> str:
    outcome, findings = str(event.get("outcome", "judged")), event.get("findings") or []
    telling = {"certified": "pass", "rejected": "fail", "expired": "inconclusive"}.get(outcome.split(",")[0])
    picked = [finding for finding in findings if finding.get("verdict") == telling]
    if not picked:
        return outcome
    # the certificate speaks of wins and losses, which say more than that a graph is intact
    chosen = next((finding for finding in picked if finding.get("gate") == "certificate"), picked[0])
    by = f" by {chosen.get('gate')}" if telling == "fail" else ""
    return f"{outcome}{by}: {str(chosen.get('reason', '')).removeprefix('certified: ')}"


def event_line(event: Event, started_s: float) -> str:
    """One decision for a log."""
    return f"{clock(seconds_since(event, started_s)):>6}  * {words(event)}"


def line(scene: Scene) -> str:
    """The moment in one line, for a log."""
    parts = [
        f"{clock(scene.elapsed_s):>6}  {_phase(scene)}",
        f"served {percent(scene.served_accuracy)}, frozen source {percent(scene.source_accuracy)}",
        f"version {number(scene.serving_version, '{}')}",
        f"{scene.sent:,} sent, {scene.failed:,} failed",
        f"p99 {number(scene.p99_ms, '{:.1f} ms')}",
        f"entropy {number(scene.status.get('entropy'), '{:.2f}')}",
    ]
    trial = scene.status.get("trial")
    return " | ".join(parts + ([f"version {trial} under test"] if trial is not None else []))


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


def _phase(scene: Scene) -> str:
    return f"shifted: {clean(scene.shift_name, 30)}" if scene.phase == "shifted" else clean(scene.phase, 30)


def _headline(scene: Scene, width: int) -> Text:
    left = Text.assemble(("tta-agent demo", "bold"), "  ")
    left.append(_phase(scene), "bold dark_orange" if scene.phase == "shifted" else "bold green")
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
    low, high = bounds(value for _, *pair in scene.history for value in pair)
    levels = [_levels(scene, which, 2 * width, low, high) for which in (1, 2)]
    served, source = _cells(_curve(levels[0])), _cells(_area(levels[1]))
    for y in range(CHART_ROWS):
        edge = {0: f"{high:.0%}", CHART_ROWS - 1: f"{low:.0%}"}.get(y, "")
        row = Text.assemble((f"{edge:>{LABEL - 2}} {'┤' if edge else '│'}", SOFT))
        for over, under in zip(served[y], source[y], strict=True):
            row.append(chr(0x2800 + (over or under)) if over or under else " ", SERVED if over else SOURCE)
        yield row


def _levels(scene: Scene, which: int, columns: int, low: float, high: float) -> Array:
    # row of dots, from the top, for each column of dots; NaN where nothing is known (yet)
    points = [(point[0], float(point[which] or 0)) for point in scene.history if known(point[which])]
    if not points:
        return np.full(columns, np.nan)
    times, shares = np.array(points).T
    at = np.linspace(0, _span_s(scene), columns)
    shares = np.interp(at, times, shares, left=np.nan, right=np.nan)
    return np.asarray(np.round((high - shares) / (high - low) * (4 * CHART_ROWS - 1)))


def _curve(levels: Array) -> Array:
    rows = np.arange(4 * CHART_ROWS)[:, None]
    before = np.where(np.isnan(np.roll(levels, 1)), levels, np.roll(levels, 1))
    before[0] = levels[0]
    return np.asarray((rows >= np.minimum(before, levels)) & (rows <= np.maximum(before, levels)))


def _area(levels: Array) -> Array:
    y, x = np.indices((4 * CHART_ROWS, len(levels)))
    return np.asarray((y >= levels) & ((x + y) % 2 == 0))


def _cells(dots: Array) -> list[list[int]]:
    blocks = dots.reshape(CHART_ROWS, 4, -1, 2) * BRAILLE[None, :, None, :]
    return [[int(code) for code in row] for row in blocks.sum(axis=(1, 3))]


def _span_s(scene: Scene) -> float:
    return max(scene.duration_s, scene.elapsed_s, 1.0)


def _axis(scene: Scene, width: int) -> Text:
    row = Text(f"{'0:00':<{width}}", SOFT)
    end = clock(_span_s(scene))
    marks = [(width - len(end), end, SOFT)]
    marks += [(_column(scene, scene.shifted_s, width), "▲shift", SOURCE)] if known(scene.shifted_s) else []
    for event in scene.events:
        if event.get("event") in ("swap", "rollback"):
            said = f"▲{'swap' if event['event'] == 'swap' else 'back'} {event.get('version', '?')}"
            marks.append((_column(scene, seconds_since(event, scene.started_s), width), said, SERVED))
    for at, text, style in marks:
        at = max(min(at, width - len(text)), 0)
        row = Text.assemble(row[:at], (text, style), row[at + len(text) :])
    return Text.assemble(" " * LABEL, row)


def _column(scene: Scene, t_s: float, width: int) -> int:
    return int(t_s / _span_s(scene) * (width - 1))


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
