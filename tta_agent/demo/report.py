"""What is left when the demo has ended: a table, a picture, and a page that needs no network."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from rich.text import Text

from tta_agent.demo import picture
from tta_agent.demo.page import html
from tta_agent.demo.summary import Result, headline, sections
from tta_agent.demo.timeline import MOST_POINTS, points, ticks
from tta_agent.reports.svg import LEFT, RIGHT, PlotArea

__all__ = [
    "LEFT",
    "MOST_POINTS",
    "RIGHT",
    "PlotArea",
    "headline",
    "html",
    "points",
    "table",
    "ticks",
    "write",
]


def write(result: Result, folder: Path) -> dict[str, Path]:
    """Write `demo.png` and `demo.html` into the folder; returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    png, page = folder / "demo.png", folder / "demo.html"
    picture.draw(result, png)
    page.write_text(html(result), encoding="utf-8", errors="xmlcharrefreplace")
    return {"png": png, "html": page}


def table(result: Result) -> Table:
    """The closing table for a terminal."""
    drawn = Table(title=Text(headline(result), "bold"), title_justify="left")
    drawn.add_column("")
    drawn.add_column("served", justify="right", style="bold cyan", no_wrap=True)
    drawn.add_column("frozen source", justify="right", style="dark_orange", no_wrap=True)
    for section in sections(result):
        for row in section:
            drawn.add_row(*(Text(cell) for cell in row))
        drawn.add_section()
    return drawn
