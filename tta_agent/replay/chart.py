"""The chart on a replay's page: accuracy over the records, of source, oracle and every policy, and the swaps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from markupsafe import Markup

from tta_agent.core.events import Event
from tta_agent.replay.words import Result, did, headline, reason
from tta_agent.reports import svg
from tta_agent.reports.svg import LEFT, RIGHT, PlotArea, joined, tag
from tta_agent.reports.words import MOVES, bounds, clean, clock, percent

TOP, BOTTOM, HEIGHT = 44, 330, 384
COLOURS = 6  # of the page; from the seventh policy on they come again, dashed
MOST_MARKS = 60
APART = 70.0  # of two numbers below the axis
UP, DOWN = "M{x} {a}l7.5 12h-15z", "M{x} {b}l7.5 -12h-15z"


def colour(i: int) -> str:
    """Class of the i-th policy's line, mark and key."""
    return f"p{i % COLOURS}" + (" dashed" if i >= COLOURS else "")


def chart(result: Result) -> Markup:
    """The chart as SVG."""
    windows, policies = result["windows"], result["policies"]
    area = _area(result)
    return svg.chart(
        *_bands(windows, area),
        area.grid(area.tens(), "{:.0%}"),
        tag("path", class_="axis", d=f"M{LEFT} {BOTTOM}H{RIGHT}"),
        *_ticks(result, area),
        tag("text", title(result), class_="name", x=0, y=14),
        area.line(_points(windows, [row["oracle"] for row in windows]), "oracle"),
        *(_line(one, i, result, area) for i, one in enumerate(policies)),
        area.line(_points(windows, [row["source"] for row in windows]), "source"),  # dashed: lines below show
        *(mark for i, one in enumerate(policies) for mark in _marks(one, i, windows, area)),
        height=HEIGHT, top=TOP, bottom=BOTTOM, title=headline(result), subject="Accuracy over the recording",
    )  # fmt: skip


def cursor(result: Result) -> list[tuple[float, str]]:
    """Horizontal place and accuracies of every window that one may point at."""
    area, policies = _area(result), result["policies"]
    places = []
    for i, row in enumerate(result["windows"]):
        shares = [("source", row["source"]), ("oracle", row["oracle"])]
        shares += [(one["name"], one["windows"]["served"][i]) for one in policies]
        domain = [row["domain"]] if row["domain"] else []
        said = [f"{middle(row):,.0f} records", clock(row["t"]), *domain]
        text = " · ".join([*said, *(f"{name} {percent(share)}" for name, share in shares)])
        places.append((area.x(middle(row)), text))
    return places


def title(result: Result) -> str:
    """Number and length of the windows, in words."""
    windows = result["windows"]
    each = max((row["end"] - row["first"] for row in windows), default=0)
    return f"Accuracy in {len(windows)} windows of {each:,} records" if len(windows) > 1 else "Accuracy"


def middle(row: Mapping[str, Any]) -> float:
    """Place of a window on the axis, in records."""
    return float(row["first"] + row["end"]) / 2


def _area(result: Result) -> PlotArea:
    return PlotArea(TOP, BOTTOM, *_bounds(result), max(result["records"], 1))


def _bounds(result: Result) -> tuple[float, float]:
    windows, policies = result["windows"], result["policies"]
    shares = [row[who] for row in windows for who in ("source", "oracle")]
    return bounds([*shares, *(share for one in policies for share in one["windows"]["served"])])


def _points(windows: Sequence[Mapping[str, Any]], column: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows for `PlotArea.line`, under a name that every line shares."""
    rows = zip(windows, column, strict=True)
    return [dict.fromkeys(("oracle", "source", "served"), value) | {"t": middle(row)} for row, value in rows]


def _line(policy: Mapping[str, Any], i: int, result: Result, area: PlotArea) -> Markup:
    windows, above = result["windows"], len(result["policies"]) - 1 - i
    told = tag("title", clean(f"{policy['name']}: {percent(policy['served_accuracy'])} served", 120))
    drawn = area.line(_points(windows, policy["windows"]["served"]), "served")
    # policies often serve the same: what lies below is wider, so that every one is seen
    return tag("g", told, drawn, class_=colour(i), style=f"--thick: {2.5 + 1.5 * min(above, 3):g}")


def _marks(
    policy: Mapping[str, Any], i: int, windows: Sequence[Mapping[str, Any]], area: PlotArea
) -> Iterator[Markup]:
    moves = [event for event in policy["events"] if event["event"] in MOVES]
    for event in moves[-MOST_MARKS:]:
        share = _served_at(event["record"], windows, policy["windows"]["served"])
        x, y = area.x(event["record"]), area.y(area.low if share is None else share)
        shape = (DOWN if event["event"] in (Event.ROLLBACK, Event.FALLBACK) else UP).format(
            x=x, a=y - 7, b=y + 7
        )
        why = reason(event, policy["events"])
        said = f"{policy['name']}, record {event['record']:,}: {did(event)}{': ' if why else ''}{why}"
        yield tag("g", tag("title", clean(said)), tag("path", d=shape), class_=f"{event['event']} move {colour(i)}",
                  data_version=event.get("version", ""))  # fmt: skip


def _served_at(record: int, windows: Sequence[Mapping[str, Any]], served: Sequence[Any]) -> float | None:
    found = [share for row, share in zip(windows, served, strict=True) if row["first"] <= record]
    return found[-1] if found else None


def _bands(windows: Sequence[Mapping[str, Any]], area: PlotArea) -> Iterator[Markup]:
    """Shaded band of each stretch of one domain, in two alternating colours."""
    for i, (name, group) in enumerate(groupby(windows, lambda row: row["domain"])):
        rows = list(group)
        a, b = area.x(rows[0]["first"]), area.x(rows[-1]["end"])
        if name is None:
            continue
        told = tag("title", clean(name, 80))
        band = tag(
            "rect", told, class_=f"domain s{i % 2}", x=a, width=round(b - a, 1), y=TOP, height=BOTTOM - TOP
        )
        fits = len(name) * 6.5 < b - a  # letters of 12 px
        text = [tag("text", clean(name, 80), x=a + 4, y=TOP - 6)] if fits else []
        yield joined([band, *text])


def _ticks(result: Result, area: PlotArea) -> Iterator[Markup]:
    """Ticks of records, with the recorded time below."""
    windows = result["windows"]
    begins = [(row["first"], row["t"]) for row in windows[:: max(len(windows) // 6, 1)]]
    end = (result["records"], windows[-1]["t_end"]) if windows else (0, 0.0)
    for record, t in [*(place for place in begins if area.x(end[0]) - area.x(place[0]) > APART), end]:
        x = area.x(record)
        yield tag("text", f"{record:,}", x=x, y=BOTTOM + 18, text_anchor="middle")
        yield tag("text", clock(t), class_="faint", x=x, y=BOTTOM + 34, text_anchor="middle")
    yield tag("text", "records played; below, minutes:seconds since the first", class_="faint", x=RIGHT,
              y=BOTTOM + 50, text_anchor="end")  # fmt: skip
