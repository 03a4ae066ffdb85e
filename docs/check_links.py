"""Check, without a network, that links of the Markdown files lead somewhere, and that files which texts name exist.

`python -m docs.check_links` exits with 1 and one line for each broken link. Checked are relative links, their
anchors (as GitHub makes them of headings), and paths of this repository in the text of any file.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parent.parent
SHELVES = {"tta_adapters": "adapters", "tta_policies": "policies"}
NAMED = re.compile(
    r"(?<![\w/.{-])((?:docs|benchmarks|tests|adapters|policies|tta_agent|tta_adapters|tta_policies)/"
    r"[\w./-]*\w\.(?:md|py|yaml|safetensors|npz|png|svg))\b"
)
TEXTS = {".md", ".py", ".toml", ".yaml", ".html", ""}
EXEMPT = {
    "CHANGELOG.md",
    "test_check_links.py",
}  # name files of the past, and files that are missing on purpose


def broken(root: Path = ROOT) -> list[str]:
    """One line for each link or path that leads nowhere."""
    found = []
    for file in _files(root):
        if file.suffix == ".md":
            found += [f"{file.relative_to(root)}:{line}: {why}" for line, why in _links(file)]
        if file.suffix in TEXTS and file.name not in EXEMPT:
            found += [f"{file.relative_to(root)}:{line}: {why}" for line, why in _paths(root, file)]
    return found


def _files(root: Path) -> list[Path]:
    """Files that git knows or would add."""
    listed = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0")
    return [path for name in names if name and (path := root / name).is_file()]


def _links(file: Path) -> Iterator[tuple[int, str]]:
    for line, target in _targets(_tokens(file)):
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            continue
        where = (file.parent / unquote(parts.path)) if parts.path else file
        if not where.exists():
            yield line, f"no file {target}"
        elif parts.fragment and where.suffix == ".md" and parts.fragment not in anchors(where):
            yield line, f"no heading #{parts.fragment} in {where.name}"


def _targets(tokens: list[Token]) -> Iterator[tuple[int, str]]:
    for token in tokens:
        line = token.map[0] + 1 if token.map else 0
        for part in (token, *(token.children or ())):
            target = part.attrGet("href") or part.attrGet("src")
            if target:
                yield line, str(target)
            if part.type in ("html_block", "html_inline"):
                yield from ((line, found) for found in re.findall(r'(?:href|src)="([^"]+)"', part.content))


@cache
def anchors(file: Path) -> frozenset[str]:
    """Anchors of a Markdown file: a heading's words in lower case, joined by hyphens; a second one gets -1."""
    tokens, seen, found = _tokens(file), Counter[str](), set()
    for heading, inline in pairwise(tokens):
        if heading.type == "heading_open":
            text = "".join(part.content for part in inline.children or ())
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return frozenset(found)


@cache
def _tokens(file: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(file.read_text(encoding="utf-8"))


def _paths(root: Path, file: Path) -> Iterator[tuple[int, str]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return
    for number, line in enumerate(lines, 1):
        for name in NAMED.findall(line):
            shelf = SHELVES.get(name.split("/")[0], "")
            if not ((root / shelf / name).exists() or (file.parent / name).exists()):
                yield number, f"no file {name}"


def main() -> int:
    """Print what is broken; the exit status."""
    lines = broken()
    print("\n".join(lines), file=sys.stderr, end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
