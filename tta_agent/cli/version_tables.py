"""Tables of the commands, for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console()


def overview(rows: Sequence[Mapping[str, Any]]) -> None:
    """All versions, one a line."""
    table = Table(*rows[0]) if rows else Table("version")
    for row in rows:
        table.add_row(*(str("" if value is None else value) for value in row.values()))
    console.print(table)


def difference(told: Mapping[str, Any]) -> None:
    """What `compare` has found."""
    for title in ("settings", "records", "gates"):
        _pairs(title, told["versions"], told[title])
    _layers(told["tensors"])


def these(numbers: Sequence[int]) -> str:
    """In words."""
    return f"versions {', '.join(map(str, numbers))}" if numbers else "no version"


def _pairs(title: str, versions: list[int], pairs: dict[str, list[Any]]) -> None:
    if not pairs:
        console.print(f"{title}: nothing that differs")
        return
    table = Table(title, *(f"version {number}" for number in versions))
    for name, values in pairs.items():
        table.add_row(name, *(_cell(value) for value in values))
    console.print(table)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _layers(tensors: dict[str, Any] | None) -> None:
    if tensors is None:
        console.print("tensors: one of the two is an explanation only, its graph was given up")
        return
    table = Table("layer", "tensors", "distance", "norm before")
    for row in tensors["layers"]:
        table.add_row(row["layer"], str(row["tensors"]), f"{row['distance']:.4g}", f"{row['of']:.4g}")
    console.print(f"tensors: {tensors['differ']} differ; the layers that moved furthest:")
    console.print(table)


def pins(numbers: list[int], as_json: bool) -> str:
    """The pinned versions, for people or as JSON."""
    return json.dumps({"pinned": numbers}) if as_json else f"pinned: {', '.join(map(str, numbers)) or 'none'}"
