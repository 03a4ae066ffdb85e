"""Troubleshooting: each message of the page is one that the code still prints."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = [path for top in ("tta_agent", "adapters", "policies") for path in (ROOT / top).rglob("*.py")]
ROWS = re.findall(
    r"^\| (?:`[a-z_]+`(?:, `[a-z_]+`)* \| )?`([^`]*…[^`]*|[^`]{25,})`",
    (ROOT / "docs/troubleshooting.md").read_text(),
    re.M,
)
SETTINGS = {"TTA_…=…: Input should be …"}  # pydantic's own words


def texts():
    """Texts of the code, a blank sign for each value that is put in."""
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%[-+.\d]*[sdgf]", "…", node.value)


TEXTS = [re.sub(r"\s+", " ", text) for text in texts()]


def test_the_page_has_many_messages():
    assert len(ROWS) >= 60


@pytest.mark.parametrize("message", sorted(set(ROWS) - SETTINGS))
def test_a_message_is_one_of_the_code(message):
    parts = [part for part in map(str.strip, message.split("…")) if len(part) >= 4]
    assert parts, "nothing to find it by"
    assert any(all(part in text for part in parts) for text in TEXTS)
