"""History of service and withdrawals."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from tta_agent.core import json_text
from tta_agent.core.errors import RegistryError
from tta_agent.registry.storage import Storage, home

HISTORY = "history.jsonl"
WITHDRAWN = "withdrawn.json"


def entries(storage: Storage) -> list[dict[str, Any]]:
    """Changes of service, oldest first: {time, number, before, by, reason}."""
    try:
        return [_change(line) for line in storage.read(HISTORY).splitlines()]
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise RegistryError(f"{storage.where}/{HISTORY} cannot be read: {error}") from None


def _change(line: bytes) -> dict[str, Any]:
    found = json_text.parse_object(line)
    if missing := {"time", "number", "before", "by", "reason"} - set(found):
        raise ValueError(f"a line lacks {', '.join(sorted(missing))}")
    return found


def note(storage: Storage, number: int, before: int | None, by: str, reason: str) -> int | None:
    """Record a change of service, unless it is the last one on record; the version that served before.

    The file is rewritten whole, since object stores cannot append.

    Args:
        before: the version that served, for a registry without a history.
    """
    lines = entries(storage)
    if lines and lines[-1]["number"] == number:  # a crash came before the alias, or somebody has edited that
        return _before(lines[-1])
    before = lines[-1]["number"] if lines else before
    lines.append({"time": time.time(), "number": number, "before": before, "by": by, "reason": reason})
    storage.write(HISTORY, "".join(json.dumps(line) + "\n" for line in lines).encode())
    return before


def _before(change: Mapping[str, Any]) -> int | None:
    return None if change["before"] is None else int(change["before"])


def served(storage: Storage, proven: list[int], serving: int | None) -> list[int]:
    """Numbers of the versions that served, the latest last; a number may come more than once.

    A registry older than this file has no history: there `proven` versions count as having served in their order,
    for each was swapped in when it was proven. A crash may leave the last change out: `serving` tells.
    """
    changes = entries(storage)
    order = [entry["number"] for entry in changes]
    first = changes[0]["before"] if changes else None
    older = [n for n in proven if n not in order and (first is None or n <= first)]
    order = [0, *older, *([] if first is None else [first]), *order]
    return order if serving is None or order[-1] == serving else [*order, serving]


def spells(storage: Storage, number: int) -> list[tuple[float, float | None, str]]:
    """Spells in which a version served: (from, until or None, reason), in seconds since the epoch."""
    changes = entries(storage)
    ends: list[float | None] = [*(entry["time"] for entry in changes[1:]), None]
    return [
        (entry["time"], end, f"by {entry['by']}" + (f": {entry['reason']}" if entry["reason"] else ""))
        for entry, end in zip(changes, ends, strict=False)  # no changes, one end
        if entry["number"] == number
    ]


def withdraw(storage: Storage, number: int, reason: str, by: str) -> None:
    """Mark a version as withdrawn. The first reason stays."""
    name = f"{home(number)}/{WITHDRAWN}"
    if not storage.exists(name):
        told = {"time": time.time(), "by": by, "reason": reason}
        storage.write(name, json.dumps(told, indent=1).encode())


def withdrawal(storage: Storage, number: int) -> dict[str, Any]:
    """Withdrawal of a version as {time, by, reason}; empty where it was not taken back."""
    try:
        return json_text.parse_object(storage.read(f"{home(number)}/{WITHDRAWN}"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise RegistryError(f"version {number} is damaged: {WITHDRAWN} cannot be read: {error}") from None
