"""The table of packages in the architecture page: purpose, size and imports, from the code."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from docs.tables import table


def rooms(root: Path) -> str:
    """Table of the packages of `tta_agent`, the highest layer first; lines are rounded to hundreds."""
    rows = []
    for number, layer in enumerate(_layers(root), 1):
        for name in layer:
            files = sorted((root / "tta_agent" / name).rglob("*.py"))
            lines = sum(len(_text(file).splitlines()) for file in files)
            purpose = (ast.get_docstring(ast.parse(_text(files[0]))) or "").split("\n")[0]
            size = f"{round(lines, -2):,}" if lines >= 100 else "under 100"
            seen = ", ".join(sorted({room for file in files for room in _imports(root, file)} - {name}))
            rows.append((str(number), f"`{name}/`", purpose, str(len(files)), size, seen))
    return table(("layer", "room", "purpose", "modules", "lines", "imports today"), rows)


def _layers(root: Path) -> list[list[str]]:
    """Rooms by layer, as the contract of import-linter in pyproject.toml orders them."""
    project = tomllib.loads(_text(root / "pyproject.toml"))
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [
        [name.strip().removeprefix("tta_agent.") for name in re.split(r"[|:]", layer)] for layer in layers
    ]


def _imports(root: Path, file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(_text(file))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tta_agent."):
            room = node.module.split(".")[1]
            if (root / "tta_agent" / room).is_dir():
                yield room


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")
