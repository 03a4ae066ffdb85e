"""Findings of the doctor: what was looked at, the outcome, and the fix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tta_agent.core.errors import TtaError
from tta_agent.core.os_errors import describe

Outcome: TypeAlias = Literal["ok", "warning", "failure", "skipped"]


@dataclass(frozen=True, slots=True)
class CheckFinding:
    """Finding of one check.

    Attributes:
        check: name of the group of checks: settings, volume, broker, records, model, server.
        subject: what was looked at.
        outcome: `warning` where the agent runs, and something is lost by it.
        told: the observation.
        fix: what to do; empty where nothing is to be done.
    """

    check: str
    subject: str
    outcome: Outcome
    told: str
    fix: str = ""


Check: TypeAlias = Callable[[], Iterator[CheckFinding]]


def guarded(check: str, subject: str, look: Check, fix: str) -> Iterator[CheckFinding]:
    """Findings of a check; one that cannot go on is a failure, with its message.

    Args:
        fix: where the message does not say it.
    """
    try:
        yield from look()
    except TtaError as error:
        first, _, rest = str(error).partition("\n")
        yield CheckFinding(check, subject, "failure", first, rest.replace("\n", " ") or fix)
    except OSError as error:
        yield CheckFinding(check, subject, "failure", describe(error), fix)
    except Exception as error:  # a plugin, a driver of a file system, a server that answers anything
        yield CheckFinding(check, subject, "failure", f"{type(error).__name__}: {error}", fix)
