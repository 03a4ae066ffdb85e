"""Files of a demo that has ended, and its closing table."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from rich.text import Text

from tta_agent.core import extras
from tta_agent.demo import picture
from tta_agent.demo.page import html
from tta_agent.demo.summary import Result, headline, sections

PNG = "demo.png"


def write(result: Result, folder: Path) -> dict[str, Path]:
    """Write `demo.html`, and `demo.png` where matplotlib is installed, into the folder; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    png, page = folder / PNG, folder / "demo.html"
    page.write_text(html(result), encoding="utf-8", errors="xmlcharrefreplace")
    if extras.missing("demo", PNG):
        return {"html": page}
    picture.draw(result, png)
    return {"png": png, "html": page}


def table(result: Result) -> Table:
    """Closing table for a terminal."""
    drawn = Table(title=Text(headline(result), "bold"), title_justify="left")
    drawn.add_column("")
    drawn.add_column("served", justify="right", style="bold cyan", no_wrap=True)
    drawn.add_column("frozen source", justify="right", style="dark_orange", no_wrap=True)
    for section in sections(result):
        for row in section:
            drawn.add_row(*(Text(cell) for cell in row))
        drawn.add_section()
    return drawn
