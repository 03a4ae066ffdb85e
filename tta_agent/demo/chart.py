"""The chart on a demo's page: accuracy above, entropy and kept samples below, over time."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from tta_agent.demo import timeline
from tta_agent.demo.summary import Result, headline
from tta_agent.reports import svg
from tta_agent.reports.svg import LEFT, RIGHT, PlotArea, joined, tag
from tta_agent.reports.words import clock, number, percent

HEIGHT = 440
ABOVE, BELOW = (52, 250), (304, 400)  # top and bottom of the two plot areas


def chart(result: Result) -> Markup:
    """The chart as SVG."""
    rows, span_s = timeline.points(result), timeline.span_s(result)
    above = PlotArea(*ABOVE, *timeline.shares(rows), span_s)
    below = PlotArea(*BELOW, 0, timeline.highest(rows, "entropy"), span_s)
    kept = PlotArea(*BELOW, 0, 1.05, span_s)
    return svg.chart(
        _shift_band(result, above),
        above.grid(above.tens(), "{:.0%}"),
        below.grid([0, round(below.high / 1.1, 1)], "{:.1f}"),
        kept.grid([0, 1], "{:.0%}", RIGHT + 8, "start"),
        tag("text", "Accuracy over the last seconds", class_="name", x=0, y=14),
        tag("text", "Entropy in nats (left) and share of samples kept (right)", class_="name", x=0, y=290),
        *(tag("path", class_="axis", d=f"M{LEFT} {area.bottom}H{RIGHT}") for area in (above, below)),
        *(tag("text", clock(t), x=above.x(t), y=420, text_anchor="middle") for t in timeline.ticks(span_s)),
        below.line(rows, "entropy"), kept.line(rows, "kept"),
        above.line(rows, "source"), above.line(rows, "served"),
        tag("g", *_moves(result, above), class_="move"),
        height=HEIGHT, top=ABOVE[0], bottom=BELOW[1], title=headline(result), subject="Accuracy over time",
    )  # fmt: skip


def cursor(result: Result) -> list[tuple[float, str]]:
    """Horizontal place and numbers of every moment that one may point at."""
    area = PlotArea(*ABOVE, 0, 1, timeline.span_s(result))
    return [
        (area.x(row["t"]), " · ".join([
            clock(row["t"]), f"served {percent(row['served'])}", f"frozen source {percent(row['source'])}",
            f"version {number(row['version'], '{}')}", f"entropy {number(row['entropy'], '{:.2f}')}",
            f"kept {percent(row['kept'])}",
        ]))
        for row in timeline.points(result)
    ]  # fmt: skip


def _shift_band(result: Result, area: PlotArea) -> Markup:
    shift_s = timeline.shift_s(result)
    if shift_s is None:
        return Markup()
    x = area.x(shift_s)
    bands = [
        tag("rect", class_="s1", x=x, width=round(RIGHT - x, 1), y=top, height=bottom - top)
        for top, bottom in (ABOVE, BELOW)
    ]
    return joined([*bands, tag("text", "shift", x=x + 6, y=ABOVE[0] + 14)])


def _moves(result: Result, area: PlotArea) -> Iterator[Markup]:
    for move in timeline.moves(result):
        x, y = area.x(move.t_s), 46 - 15 * move.row
        said = tag("title", f"{clock(move.t_s)} {move.kind}: version {move.version} serves")
        rule = tag("path", d=f"M{x} {y + 3}V{ABOVE[1]}M{x} {BELOW[0]}V{BELOW[1]}")
        text = tag("text", move.label, x=x, y=y, text_anchor="middle")
        yield tag("g", said, rule, text, class_=move.kind, data_version=move.version)
