"""Figures of the structure: rooms, imports between them, longest parts, and the files that a record and a label pass.

    python -m benchmarks.structure [--root .] [--static] [--trace] [--json OUT]

The static figures are read from the source alone. For the ways a real agent runs (`benchmarks/ways.py`, some
seconds); `--static` leaves them out, `--trace` lists the files in their order.

A room is a package directly under `tta_agent`, or a module that lies there alone; adapters and policies are a room
each. `imports` are pairs of rooms of which one imports the other, lazy imports included. A setting is named by a test
where its name stands as a word of its own.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FAMILIES = ("tta_agent", "adapters/tta_adapters", "policies/tta_policies")
BESIDE = {"__init__", "__main__"}
_WORDS = re.compile(r"\w+")


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    found = {}
    for family in FAMILIES:
        for path in sorted((root / family).rglob("*.py")):
            parts = path.relative_to((root / family).parent).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def trees(root: Path = ROOT) -> dict[str, ast.Module]:
    """Syntax trees by dotted name."""
    return {name: ast.parse(path.read_text()) for name, path in modules(root).items()}


def at_the_top(root: Path = ROOT) -> list[str]:
    """Modules directly in `tta_agent/`, beside `__init__` and `__main__`."""
    return sorted(path.stem for path in (root / "tta_agent").glob("*.py") if path.stem not in BESIDE)


def room(name: str) -> str:
    """The package directly under `tta_agent` in which a module lies; for plugins their family."""
    family, _, rest = name.partition(".")
    return rest.partition(".")[0] if family == "tta_agent" and rest else family


def imports(parsed: Mapping[str, ast.Module]) -> set[tuple[str, str]]:
    """Pairs of rooms: one that imports, and one that is imported."""
    pairs = ((room(name), room(other)) for name, tree in parsed.items() for other in _imported(tree, parsed))
    return {(one, other) for one, other in pairs if one != other}


def _imported(tree: ast.Module, known: Mapping[str, ast.Module]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in names)


def longest_function(parsed: Mapping[str, ast.Module]) -> tuple[int, str]:
    """Lines of the longest function, decorators aside, and its name."""
    return max(
        (node.end_lineno - node.lineno + 1, f"{name}.{node.name}")
        for name, tree in parsed.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    )


def longest_module(root: Path = ROOT) -> tuple[int, str]:
    """Lines of the longest module, and its name."""
    return max((len(path.read_text().splitlines()), name) for name, path in modules(root).items())


def repeated_classes(parsed: Mapping[str, ast.Module]) -> dict[str, list[str]]:
    """Names that several public classes have, with their modules; nested classes do not count."""
    homes: dict[str, list[str]] = {}
    for name, tree in parsed.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(name)
    return {name: found for name, found in sorted(homes.items()) if len(found) > 1}


def settings(parsed: Mapping[str, ast.Module]) -> list[tuple[str, str]]:
    """Group (empty for none) and name of every setting, read from the classes that declare them."""
    bodies = {n.name: n.body for tree in parsed.values() for n in tree.body if isinstance(n, ast.ClassDef)}
    leaves = []
    for name, kind in _fields(bodies["Settings"]):
        inner = _fields(bodies[kind]) if kind in bodies else []
        leaves += [(name, leaf) for leaf, _ in inner] or [("", name)]
    return leaves


def _fields(body: list[ast.stmt]) -> list[tuple[str, str]]:
    found = [(n.target, n.annotation) for n in body if isinstance(n, ast.AnnAssign)]
    return [(target.id, ast.unparse(kind)) for target, kind in found if isinstance(target, ast.Name)]


def unnamed_settings(parsed: Mapping[str, ast.Module], root: Path = ROOT) -> list[str]:
    """Variables of the settings that no test names."""
    words = {word for path in (root / "tests").rglob("*.py") for word in _WORDS.findall(path.read_text())}
    return [name for group, leaf in settings(parsed) if not {name := variable(group, leaf), leaf} & words]


def variable(group: str, name: str) -> str:
    """The environment variable of a setting."""
    return "TTA_" + "__".join(part for part in (group, name) if part).upper()


def static(root: Path = ROOT) -> dict[str, Any]:
    """Figures that need no run, by name."""
    parsed = trees(root)
    function, module = longest_function(parsed), longest_module(root)
    return {
        "modules at the top": len(at_the_top(root)),
        "modules": sum(path.stem != "__init__" for path in modules(root).values()),
        "rooms": len({room(name) for name in parsed if "." in name}),
        "imports": len(imports(parsed)),
        "longest function": f"{function[0]} lines, {function[1]}",
        "longest module": f"{module[0]} lines, {module[1]}",
        "class names used twice": sorted(repeated_classes(parsed)),
        "settings": len(settings(parsed)),
        "settings in no test": unnamed_settings(parsed, root),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="checkout whose source is read")
    parser.add_argument("--static", action="store_true", help="run nothing")
    parser.add_argument(
        "--trace", action="store_true", help="list the files of each way in their order; * handles it"
    )
    parser.add_argument("--json", type=Path, help="write the figures, too")
    args = parser.parse_args()
    figures = static(args.root)
    if not args.static:
        from benchmarks import ways

        figures |= ways.measure()
    for name, value in figures.items():
        print(f"{name:28} {_shown(value)}")
        if args.trace and isinstance(value, dict):
            print(
                *(f"{'*' if file in value['handlers'] else ' '} {file}" for file in value["trace"]), sep="\n"
            )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['handling']} files handle it, {value['files']} run, {value['crossings']} crossings"
    return " ".join([str(len(value)), *value]) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    main()
