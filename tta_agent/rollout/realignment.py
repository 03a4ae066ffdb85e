"""Correction of a server that answers with another version, or otherwise than the served version does.

A server may be restarted at the version that it began with, and a stranger may load another one: neither says
anything about the served version, which is put back. Wrong answers while it is live do, where putting it back has not
helped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from tta_agent.core.errors import WrongAnswer
from tta_agent.core.types import GateResult
from tta_agent.serving.deployment import ServedModel

MOST_S = 3600.0  # longest pause between two attempts
WRONG = "golden"  # the gate of answers that are not those of the graph
TWICE = 2  # wrong answers after an attempt that count as evidence
log = logging.getLogger(__name__)


class Realignment:
    """Puts the served version back into service, at once at first, then with pauses that double.

    Args:
        pause_s: after the first attempt.
        clock: seconds since the epoch, as the stream counts them.
    """

    def __init__(self, served: ServedModel, pause_s: float, clock: Callable[[], float] = time.time) -> None:
        self._served, self._pause_s, self._clock = served, pause_s, clock
        self._attempts, self._last_s = 0, float("-inf")
        self._version, self._tried, self._wrong = served.version.number, False, 0

    def check(self) -> GateResult | None:
        """Ask the server, and correct it; evidence against the served version, or None."""
        found = self._served.check()
        if self._version != self._served.version.number:
            self._forgive()
        if found is None:
            self._calm()
            return None
        self._wrong += self._tried and found.gate == WRONG
        if self._wrong >= TWICE and found.gate == WRONG:
            self._forgive()
            return found
        self._correct(found)
        return None

    def _forgive(self) -> None:
        self._version, self._tried, self._wrong = self._served.version.number, False, 0

    def _calm(self) -> None:
        """All is well; the next attempt is a first one after twice the pause."""
        self._forgive()
        if self._attempts and self._clock() - self._last_s >= 2 * self._wait_s():
            self._attempts = 0
        self._served.journal.status(server=None)

    def _wait_s(self) -> float:
        return min(self._pause_s * 2.0 ** (self._attempts - 1), MOST_S) if self._attempts else 0.0

    def _correct(self, found: GateResult) -> None:
        due_s = self._last_s + self._wait_s() - self._clock()
        if due_s > 0 and (self._tried or found.gate != WRONG):
            told = f"{found.reason}; to be corrected in {due_s:.0f} s, after {self._attempts} attempts"
            log.warning("%s", told)
            self._served.journal.status(server=told)
            return
        self._attempts, self._last_s = self._attempts + 1, self._clock()
        error = self._served.realign(found, self._attempts)
        self._tried = True
        self._wrong += found.gate == WRONG and isinstance(error, WrongAnswer)
        self._served.journal.status(server=found.reason if error else None)
