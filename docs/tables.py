"""Text and tables in Markdown, for the generated pages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; each cell on one line, with the signs of Markdown escaped outside of code."""
    lines = [head, ["---"] * len(head), *rows]
    cells = [[plain(" ".join(cell.split())).replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def plain(text: str) -> str:
    """Text that Markdown must not read as tags or emphasis; code in backticks stays as it is."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"(<(?=[a-zA-Z/!])|\*)", r"\\\1", part) for part in parts
    )


def clause(thing: Any) -> str:
    """The first clause of a text, or of the docstring of an object."""
    text = thing if isinstance(thing, str) else thing.__doc__ or ""
    return re.split(r"[.;:](?:\s|$)", text)[0].replace("\n", " ")
