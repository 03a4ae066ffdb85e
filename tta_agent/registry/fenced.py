"""A storage that asks before every write whether this process may still write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tta_agent.registry.storage import Storage

WRITES = ("add", "write", "remove", "remove_version", "sweep")


class Fenced:
    """Stands for a storage.

    Args:
        check: raises where another agent has taken over.
    """

    def __init__(self, storage: Storage, check: Callable[[], None]) -> None:
        self._storage, self._check = storage, check

    def __getattr__(self, name: str) -> Any:
        """The storage's own; its writes are checked first."""
        found = getattr(self._storage, name)
        return self._checked(found) if name in WRITES else found

    def _checked(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*args: Any, **kwargs: Any) -> Any:
            self._check()
            return write(*args, **kwargs)

        return checked
