"""History of service and withdrawals."""

from __future__ import annotations

import json
import time
from typing import Any

from tta_agent.core.errors import RegistryError
from tta_agent.registry.storage import Storage, home

HISTORY = "history.jsonl"
WITHDRAWN = "withdrawn.json"


def entries(storage: Storage) -> list[dict[str, Any]]:
    """Changes of service, oldest first: {time, number, before, by, reason}."""
    try:
        lines = storage.read(HISTORY).decode().splitlines()
    except FileNotFoundError:
        return []
    try:
        return [dict(json.loads(line)) for line in lines]
    except ValueError as error:
        raise RegistryError(f"{storage.where}/{HISTORY} cannot be read: {error}") from None


def note(storage: Storage, number: int, before: int | None, by: str, reason: str) -> None:
    """Record a change of service; the file is rewritten whole, since object stores cannot append."""
    entry = {"time": time.time(), "number": number, "before": before, "by": by, "reason": reason}
    lines = [*entries(storage), entry]
    storage.write(HISTORY, "".join(json.dumps(line) + "\n" for line in lines).encode())


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
        return dict(json.loads(storage.read(f"{home(number)}/{WITHDRAWN}")))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise RegistryError(f"version {number} is damaged: {WITHDRAWN} cannot be read: {error}") from None
