"""Retry queue of changes that could not be written to the registry yet."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from tta_agent.core.errors import StoreError

AGAIN_S = 30.0  # an attempt may itself take seconds, and nothing is decided meanwhile
log = logging.getLogger(__name__)


class RetryQueue:
    """Changes in the order in which they happened: made at once, or later, when the store answers again.

    For changes that have happened even if writing them fails: a version that was taken back from the server *is*
    taken back. The queue is lost with the process: then the older state of the registry counts, and is tested anew.

    Args:
        again_s: seconds between two attempts.
        clock: monotonic seconds.
    """

    def __init__(self, again_s: float = AGAIN_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._again_s, self._clock = again_s, clock
        self._owed: deque[Callable[[], object]] = deque()
        self._next_s = 0.0

    def write(self, change: Callable[[], object]) -> None:
        """Make a change, after those that still wait."""
        self._owed.append(change)
        self.clear()

    def clear(self) -> bool:
        """Make the waiting changes; whether none is left. Errors of a change propagate, but for StoreError."""
        while self._owed and self._clock() >= self._next_s:
            try:
                self._owed[0]()
            except StoreError as error:
                self._next_s = self._clock() + self._again_s
                log.warning(
                    "%s; %d changes wait, next attempt in %.0f s", error, len(self._owed), self._again_s
                )
                break
            except BaseException:
                self._owed.popleft()  # it will never be possible
                raise
            self._owed.popleft()
        return not self._owed
