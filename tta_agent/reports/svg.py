"""Elements and plot areas of the charts, as SVG for the pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

LEFT, RIGHT, WIDTH = 46.0, 906.0, 960  # of a plot area, and of the whole chart


def tag(name: str, *inside: str, **attributes: object) -> Markup:
    """An element. Text inside it and attributes are escaped (`stroke_width` becomes `stroke-width`)."""
    given = "".join(f' {k.rstrip("_").replace("_", "-")}="{escape(str(v))}"' for k, v in attributes.items())
    return Markup(f"<{name}{given}>{joined(inside)}</{name}>")  # all of it is escaped


def joined(parts: Iterable[str]) -> Markup:
    """Elements one after the other; plain text among them is escaped."""
    return Markup("").join(parts)


@dataclass(frozen=True, slots=True)
class PlotArea:
    """Rectangle of a chart: times (or records) 0 .. span from left to right, values low .. high upwards."""

    top: float
    bottom: float
    low: float
    high: float
    span: float

    def x(self, t: float) -> float:
        """Horizontal place of a time, cut off at the borders."""
        return round(LEFT + (RIGHT - LEFT) * min(max(t / self.span, 0.0), 1.0), 1)

    def y(self, value: float) -> float:
        """Vertical place of a value, cut off at the borders."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.bottom - (self.bottom - self.top) * min(max(share, 0.0), 1.0), 1)

    def line(self, rows: Iterable[Mapping[str, Any]], name: str) -> Markup:
        """Line through `name` of each row at its time `t`, broken where the value is None."""
        path, pen = "", "M"
        for row in rows:
            if row[name] is not None:
                path += f"{pen}{self.x(row['t'])} {self.y(row[name])}"
            pen = "M" if row[name] is None else "L"
        return tag("path", class_=f"line {name}", d=path)

    def grid(self, values: Iterable[float], form: str, x: float = LEFT - 8, anchor: str = "end") -> Markup:
        """A horizontal rule for each value, and its label in the format `form` at `x`."""
        rules = [tag("path", class_="rule", d=f"M{LEFT} {self.y(v)}H{RIGHT}") for v in values]
        labels = [tag("text", form.format(v), x=x, y=self.y(v) + 4, text_anchor=anchor) for v in values]
        return joined(rules + labels)

    def tens(self) -> list[float]:
        """Tens of percent between low and high, every other one where there are many."""
        every = [i / 10 for i in range(round(self.low * 10), round(self.high * 10) + 1)]
        return every[:: 2 if len(every) > 6 else 1]


def chart(*parts: str, height: int, top: float, bottom: float, title: str, subject: str) -> Markup:
    """A chart with a cursor from `top` to `bottom`, which the page's script moves.

    Args:
        title: the finding in one sentence.
        subject: what is drawn, for readers who cannot see it.
    """
    said = f"{subject}. {title}. The numbers are in the table at the end of the page."
    cursor = tag("path", class_="cursor", id="cursor", d=f"M0 {top}V{bottom}", visibility="hidden")
    return tag("svg", tag("title", title), *parts, cursor, id="chart", role="img", tabindex=0,
               viewBox=f"0 0 {WIDTH} {height}", aria_label=said)  # fmt: skip
