"""Check of a server: which version answers, and how."""

from __future__ import annotations

import logging

from tta_agent.core.errors import SwapError, WrongAnswer
from tta_agent.core.protocols import ServerDriver
from tta_agent.core.types import GateResult, Golden

log = logging.getLogger(__name__)


def check(driver: ServerDriver, number: int, expected: Golden) -> GateResult | None:
    """Check that a version answers as it should; the failed result, or None.

    Gate `server`: another version answers, which says nothing about this one. Gate `golden`: this one answers
    otherwise than its graph. A server that cannot be reached is no failure: no swap could mend it.
    """
    try:
        return _displaced(driver, number) or _wrong(driver, number, expected)
    except SwapError as error:
        log.warning("the server cannot be checked: %s", error)
        return None


def _displaced(driver: ServerDriver, number: int) -> GateResult | None:
    live = driver.live()
    reason = f"version {live} answers instead of version {number}"
    return None if live == number else GateResult("server", live, number, "fail", reason)


def _wrong(driver: ServerDriver, number: int, expected: Golden) -> GateResult | None:
    try:
        driver.verify(expected)
    except WrongAnswer as error:  # of this version, unless another one has been loaded meanwhile
        reason = f"the server answers otherwise than it should: {error}"
        return _displaced(driver, number) or GateResult("golden", 0.0, 1.0, "fail", reason)
    return None
