"""The chart of a demo as SVG, for the page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from tta_agent.demo import timeline
from tta_agent.demo.summary import Result, headline
from tta_agent.reports.words import clock

LEFT, RIGHT, WIDTH, HEIGHT = 46.0, 906.0, 960, 440
ABOVE, BELOW = (52, 250), (304, 400)  # top and bottom of the two panels


def tag(name: str, *inside: str, **attributes: object) -> str:
    """An element; `inside` is markup, attributes are escaped (`stroke_width` becomes `stroke-width`)."""
    given = "".join(f' {k.rstrip("_").replace("_", "-")}="{escape(str(v))}"' for k, v in attributes.items())
    return f"<{name}{given}>{''.join(inside)}</{name}>"


@dataclass(frozen=True, slots=True)
class Panel:
    """A part of the chart: times 0..span_s from left to right, values low..high from bottom to top."""

    top: float
    bottom: float
    low: float
    high: float
    span_s: float

    def x(self, t_s: float) -> float:
        """Where a moment lies."""
        return round(LEFT + (RIGHT - LEFT) * min(max(t_s / self.span_s, 0.0), 1.0), 1)

    def y(self, value: float) -> float:
        """Where a value lies."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.bottom - (self.bottom - self.top) * min(max(share, 0.0), 1.0), 1)

    def line(self, rows: Iterable[Mapping[str, Any]], name: str) -> str:
        """A line, broken where nothing is known."""
        path, pen = "", "M"
        for row in rows:
            if row[name] is not None:
                path += f"{pen}{self.x(row['t'])} {self.y(row[name])}"
            pen = "M" if row[name] is None else "L"
        return tag("path", class_=f"line {name}", d=path)

    def grid(self, values: Iterable[float], form: str, x: float = LEFT - 8, anchor: str = "end") -> str:
        """A rule for each value, and what it is."""
        rule = [tag("path", class_="rule", d=f"M{LEFT} {self.y(v)}H{RIGHT}") for v in values]
        text = [tag("text", form.format(v), x=x, y=self.y(v) + 4, text_anchor=anchor) for v in values]
        return "".join(rule + text)


def chart(result: Result) -> str:
    """The element."""
    rows, span = timeline.points(result), timeline.span_s(result)
    low, high = timeline.shares(rows)
    above, below = Panel(*ABOVE, low, high, span), Panel(*BELOW, 0, timeline.highest(rows, "entropy"), span)
    kept = Panel(*BELOW, 0, 1.05, span)
    tens = [i / 10 for i in range(round(low * 10), round(high * 10) + 1)]
    times = [tag("text", clock(t), x=above.x(t), y=420, text_anchor="middle") for t in timeline.ticks(span)]
    parts = [
        _shift_band(result, above),
        above.grid(tens[:: 2 if len(tens) > 6 else 1], "{:.0%}"),
        below.grid([0, round(below.high / 1.1, 1)], "{:.1f}"),
        kept.grid([0, 1], "{:.0%}", RIGHT + 8, "start"),
        tag("text", "Accuracy over the last seconds", class_="name", x=0, y=14),
        tag("text", "Entropy in nats (left) and share of samples kept (right)", class_="name", x=0, y=290),
        *[tag("path", class_="axis", d=f"M{LEFT} {panel.bottom}H{RIGHT}") for panel in (above, below)],
        *times,
        below.line(rows, "entropy"), kept.line(rows, "kept"),
        above.line(rows, "source"), above.line(rows, "served"),
        *_moves(result, above),
        tag("path", class_="cursor", id="cursor", d=f"M0 {ABOVE[0]}V{BELOW[1]}", visibility="hidden"),
    ]  # fmt: skip
    told = f"Accuracy over time. {headline(result)}. The numbers are in the table at the end of the page."
    return tag("svg", tag("title", escape(headline(result))), *parts, id="chart", role="img", tabindex=0,
               viewBox=f"0 0 {WIDTH} {HEIGHT}", aria_label=told)  # fmt: skip


def _shift_band(result: Result, panel: Panel) -> str:
    shift_s = timeline.shift_s(result)
    if shift_s is None:
        return ""
    x = panel.x(shift_s)
    bands = [
        tag("rect", class_="shift", x=x, width=round(RIGHT - x, 1), y=top, height=bottom - top)
        for top, bottom in (ABOVE, BELOW)
    ]
    return "".join(bands) + tag("text", "shift", class_="note", x=x + 6, y=ABOVE[0] + 14)


def _moves(result: Result, panel: Panel) -> Iterator[str]:
    for move in timeline.moves(result):
        x, y = panel.x(move.t_s), 46 - 15 * move.row
        said = tag("title", escape(f"{clock(move.t_s)} {move.kind}: version {move.version} serves"))
        rule = tag("path", d=f"M{x} {y + 3}V{ABOVE[1]}M{x} {BELOW[0]}V{BELOW[1]}")
        text = tag("text", escape(move.label), x=x, y=y, text_anchor="middle")
        yield tag("g", said, rule, text, class_=move.kind, data_version=move.version)
