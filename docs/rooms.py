"""The table of packages in the architecture page: purpose, size and imports, from the code."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

from benchmarks import structure
from docs.tables import table


def rooms(root: Path) -> str:
    """Table of the packages of `tta_agent`, the highest layer first; lines are rounded to hundreds."""
    seen = structure.imports(structure.trees(root))
    rows = []
    for number, layer in enumerate(_layers(root), 1):
        for name in layer:
            home = root / "tta_agent" / name
            files = sorted(home.rglob("*.py")) or [home.with_suffix(".py")]
            lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
            purpose = ast.get_docstring(ast.parse(files[0].read_text(encoding="utf-8"))) or ""
            below = ", ".join(sorted(other for one, other in seen if one == name and other != "tta_agent"))
            size = f"{round(lines, -2):,}" if lines >= 100 else "under 100"
            called = f"`{name}/`" if home.is_dir() else f"`{name}.py`"
            rows.append((str(number), called, purpose.split("\n")[0], str(len(files)), size, below))
    return table(("layer", "room", "purpose", "modules", "lines", "imports today"), rows)


def _layers(root: Path) -> list[list[str]]:
    """Rooms by layer, as the contract of import-linter in pyproject.toml orders them."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [re.split(r" *[|:] *", layer) for layer in layers if layer != "__main__"]
