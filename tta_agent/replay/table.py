"""Result of a replay as a table in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tta_agent.replay.words import HEAD, Result, cells, headline, oracle_cells, source_cells, subtitle

WIDE = 140  # columns, where no terminal tells its width


def show(result: Result) -> None:
    """Print the table."""
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=WIDE)
    table = Table(title=escape(headline(result)), caption=escape(subtitle(result)), title_justify="left")
    for i, name in enumerate(HEAD):
        table.add_column(name, justify="right" if i else "left")
    for row in (source_cells(result), *map(cells, result["policies"]), oracle_cells(result)):
        table.add_row(*map(escape, row))
    console.print(table)
