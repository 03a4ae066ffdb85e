"""The page of a demo."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from tta_agent.demo import chart
from tta_agent.demo.summary import Result, headline, sections, subtitle
from tta_agent.demo.timeline import MOST_EVENTS, points
from tta_agent.reports.decisions import ListedEvent
from tta_agent.reports.page import render
from tta_agent.reports.words import clock, number, percent

LEGEND = (
    ("p0", "served", ""), ("source dashed", "frozen source", ""), ("p2", "entropy", ""), ("p1 dashed", "kept", ""),
)  # fmt: skip


def html(result: Result) -> str:
    """The page as one HTML file."""
    events = list(result.get("events") or [])
    return render(
        "demo.html",
        command="demo",
        headline=headline(result),
        subtitle=subtitle(result),
        chart=chart.chart(result),
        legend=LEGEND,
        cursor=chart.cursor(result),
        summary=sections(result),
        shown=[ListedEvent.of(event, clock(event.get("t"))) for event in events[-MOST_EVENTS:]],
        earlier=max(len(events) - MOST_EVENTS, 0),
        commands=_commands(result),
        numbers=list(_numbers(result)),
    )


def _commands(result: Result) -> list[tuple[str, str]]:
    registry = Path(str(result.get("registry") or "tta-state/versions"))
    store = registry.parent if registry.name == "versions" else registry
    return [
        (f"export TTA_STORE__PATH={shlex.quote(str(store))}", "the registry of this run"),
        ("tta-agent versions", "every candidate, whether it was certified, and why"),
        ("tta-agent rollback", "the version that served before serves again"),
        ("tta-agent replay RECORDING --policy tent", "a recording by `tta-agent record`, through any policy"),
    ]


def _numbers(result: Result) -> Iterator[list[str]]:
    for row in points(result):
        shares = percent(row["served"]), percent(row["source"])
        rest = number(row["version"], "{}"), number(row["entropy"], "{:.2f}"), number(row["kept"], "{:.0%}")
        yield [clock(row["t"]), *shares, *rest]
