"""Accuracy over the records of a replay as SVG: source, oracle, a line a policy, and what each decided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from tta_agent.demo.svg import LEFT, RIGHT, WIDTH, Panel, tag
from tta_agent.replay.words import Result, did, headline, reason
from tta_agent.reports.words import MOVES, bounds, clean, clock, percent

TOP, BOTTOM, HEIGHT = 44, 330, 384
COLOURS = 6  # of the page; from the seventh policy on they come again, dashed
MOST_MARKS = 60
APART = 70.0  # of two numbers below the axis
UP, DOWN = "M{x} {a}l7.5 12h-15z", "M{x} {b}l7.5 -12h-15z"


def colour(i: int) -> str:
    """Class of the i-th policy's line, mark and key."""
    return f"p{i % COLOURS}" + (" dashed" if i >= COLOURS else "")


def chart(result: Result) -> str:
    """The element."""
    windows = result["windows"]
    panel = Panel(TOP, BOTTOM, *_bounds(result), max(result["records"], 1))
    tens = [i / 10 for i in range(round(panel.low * 10), round(panel.high * 10) + 1)]
    parts = [
        *_bands(windows, panel),
        panel.grid(tens[:: 2 if len(tens) > 6 else 1], "{:.0%}"),
        tag("path", class_="axis", d=f"M{LEFT} {BOTTOM}H{RIGHT}"),
        *_ticks(result, panel),
        tag("text", escape(title(result)), class_="name", x=0, y=14),
        panel.line(_points(windows, [row["oracle"] for row in windows]), "oracle"),
        *(_line(one, i, result, panel) for i, one in enumerate(result["policies"])),
        panel.line(_points(windows, [row["source"] for row in windows]), "source"),  # dashed: shows what it hides
        *(mark for i, one in enumerate(result["policies"]) for mark in _marks(one, i, windows, panel)),
        tag("path", class_="cursor", id="cursor", d=f"M0 {TOP}V{BOTTOM}", visibility="hidden"),
    ]  # fmt: skip
    told = f"Accuracy over the recording. {headline(result)}. The numbers are in the table at the end of the page."
    return tag("svg", tag("title", escape(headline(result))), *parts, id="chart", role="img", tabindex=0,
               viewBox=f"0 0 {WIDTH} {HEIGHT}", aria_label=told)  # fmt: skip


def title(result: Result) -> str:
    """What is drawn: how many windows, and of how many records."""
    windows = result["windows"]
    each = max((row["end"] - row["first"] for row in windows), default=0)
    return f"Accuracy in {len(windows)} windows of {each:,} records" if len(windows) > 1 else "Accuracy"


def middle(row: Mapping[str, Any]) -> float:
    """Where a window stands on the axis, in records."""
    return float(row["first"] + row["end"]) / 2


def _bounds(result: Result) -> tuple[float, float]:
    windows, policies = result["windows"], result["policies"]
    shares = [row[who] for row in windows for who in ("source", "oracle")]
    return bounds([*shares, *(share for one in policies for share in one["windows"]["served"])])


def _points(windows: Sequence[Mapping[str, Any]], column: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows that `Panel.line` draws, with a name that every line shares."""
    rows = zip(windows, column, strict=True)
    return [dict.fromkeys(("oracle", "source", "served"), value) | {"t": middle(row)} for row, value in rows]


def _line(policy: Mapping[str, Any], i: int, result: Result, panel: Panel) -> str:
    windows, above = result["windows"], len(result["policies"]) - 1 - i
    told = tag("title", escape(clean(f"{policy['name']}: {percent(policy['served_accuracy'])} served", 120)))
    drawn = panel.line(_points(windows, policy["windows"]["served"]), "served")
    # policies often serve the same: what lies below is wider, so that every one is seen
    return tag("g", told, drawn, class_=colour(i), style=f"--thick: {2.5 + 1.5 * min(above, 3):g}")


def _marks(
    policy: Mapping[str, Any], i: int, windows: Sequence[Mapping[str, Any]], panel: Panel
) -> Iterator[str]:
    moves = [event for event in policy["events"] if event["event"] in MOVES]
    for event in moves[-MOST_MARKS:]:
        share = _served_at(event["record"], windows, policy["windows"]["served"])
        x, y = panel.x(event["record"]), panel.y(panel.low if share is None else share)
        shape = (DOWN if event["event"] in ("rollback", "fallback") else UP).format(x=x, a=y - 7, b=y + 7)
        why = reason(event, policy["events"])
        said = f"{policy['name']}, record {event['record']:,}: {did(event)}{': ' if why else ''}{why}"
        title = tag("title", escape(clean(said)))
        yield tag("g", title, tag("path", d=shape), class_=f"{event['event']} {colour(i)}",
                  data_version=event.get("version", ""))  # fmt: skip


def _served_at(record: int, windows: Sequence[Mapping[str, Any]], served: Sequence[Any]) -> float | None:
    found = [share for row, share in zip(windows, served, strict=True) if row["first"] <= record]
    return found[-1] if found else None


def _bands(windows: Sequence[Mapping[str, Any]], panel: Panel) -> Iterator[str]:
    """A band for each stretch of one domain, every other one shaded."""
    for i, (name, group) in enumerate(groupby(windows, lambda row: row["domain"])):
        rows = list(group)
        a, b = panel.x(rows[0]["first"]), panel.x(rows[-1]["end"])
        if name is None:
            continue
        told = tag("title", escape(clean(name, 80)))
        band = tag(
            "rect", told, class_=f"domain s{i % 2}", x=a, width=round(b - a, 1), y=TOP, height=BOTTOM - TOP
        )
        fits = len(name) * 6.5 < b - a  # letters of 12 px
        text = tag("text", escape(clean(name, 80)), class_="note", x=a + 4, y=TOP - 6) if fits else ""
        yield band + text


def _ticks(result: Result, panel: Panel) -> Iterator[str]:
    """Records, and the recorded time below."""
    windows = result["windows"]
    begins = [(row["first"], row["t"]) for row in windows[:: max(len(windows) // 6, 1)]]
    end = (result["records"], windows[-1]["t_end"]) if windows else (0, 0.0)
    for record, t in [*(place for place in begins if panel.x(end[0]) - panel.x(place[0]) > APART), end]:
        x = panel.x(record)
        yield tag("text", f"{record:,}", x=x, y=BOTTOM + 18, text_anchor="middle")
        yield tag("text", clock(t), class_="faint", x=x, y=BOTTOM + 34, text_anchor="middle")
    yield tag("text", "records played; below, minutes:seconds since the first", class_="faint", x=RIGHT,
              y=BOTTOM + 50, text_anchor="end")  # fmt: skip
