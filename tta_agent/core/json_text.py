"""JSON from files that others may have touched."""

from __future__ import annotations

import json
from typing import Any


def parse(text: bytes | str) -> Any:
    """Values of a JSON text.

    Raises:
        ValueError: it is no JSON or not UTF-8, holds a number of thousands of digits, or is nested too deep.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def parse_object(text: bytes | str) -> dict[str, Any]:
    """Values of a JSON text that is an object.

    Raises:
        ValueError: as `parse`, and where it is something else.
    """
    found = parse(text)
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, found {type(found).__name__}")
    return found
