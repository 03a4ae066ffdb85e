"""Digests of code and data files, so that no result is taken over from other ones."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

FAMILIES = ("tta_agent", "tta_adapters", "tta_policies")
LEAVES = (
    "tta_agent.assembly.build",
    "tta_agent.telemetry.facade",
)  # count themselves, but lead to everything


def code(*modules: str) -> str:
    """Digest of the files of these modules and of all modules of this project that they import, however deep."""
    files: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if name in files or path is None:
            continue
        files[name] = path
        waiting += [] if name in LEAVES else _imports(path)
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + files[name].read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def data(path: Path) -> str:
    """Digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@functools.cache
def _imports(path: Path) -> list[str]:
    return [name for name in _imported(ast.parse(path.read_text())) if name.split(".")[0] in FAMILIES]


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def _file(name: str) -> Path | None:
    """The file of a module; None where the name is of something inside one."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None
