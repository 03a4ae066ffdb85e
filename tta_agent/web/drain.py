"""End of a server in order: it says that it is not ready, answers what is in progress, and stops."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

MOST_S = 10.0


class Drain:
    """Drain of one server. Its event loop owns it; `begin` may be called by a handler of signals.

    Args:
        least_s: it goes on answering for so long, until load balancers have seen that it is not ready.
        most_s: longest wait beyond that for requests that were in progress at the begin.
    """

    def __init__(self, least_s: float = 0.0, most_s: float = MOST_S) -> None:
        self._least_s, self._most_s = least_s, most_s
        self._numbers = itertools.count()
        self._active: set[int] = set()
        self._awaited: frozenset[int] = frozenset()
        self._begun_s: float | None = None

    @property
    def begun(self) -> bool:
        """Whether the server has been told to stop."""
        return self._begun_s is not None

    @property
    def active(self) -> int:
        """Requests in progress."""
        return len(self._active)

    @property
    def over(self) -> bool:
        """Whether the server may stop."""
        if self._begun_s is None:
            return False
        further_s = time.monotonic() - self._begun_s - self._least_s
        return further_s >= self._most_s or (further_s >= 0 and not self._awaited & self._active)

    def begin(self) -> None:
        """The server has been told to stop."""
        self._awaited, self._begun_s = frozenset(self._active), time.monotonic()

    @contextmanager
    def request(self) -> Iterator[None]:
        """One request, from its head to its answer."""
        number = next(self._numbers)
        self._active.add(number)
        try:
            yield
        finally:
            self._active.discard(number)
