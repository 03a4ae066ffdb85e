"""Commands to a running agent: `approve`, `reject`, `freeze`, `unfreeze`, `reset`."""

from __future__ import annotations

import getpass
import time
from pathlib import Path
from typing import Annotated

import typer

from tta_agent.control.commands import Command, CommandInbox, Kind, awaiting, read_status
from tta_agent.core.errors import ConfigError
from tta_agent.settings import env

QUIET_S = 60.0  # an agent that has said nothing for so long may not be running
Number = Annotated[
    int | None,
    typer.Argument(min=0, help="Version that waits; default: the one that does.", metavar="VERSION"),
]
By = Annotated[str | None, typer.Option(help="Who decides, for the registry; default: your user name.")]
Reason = Annotated[str, typer.Option(help="Why, for the registry.")]


def approve(version: Number = None, by: By = None, reason: Reason = "") -> None:
    """Say yes to the version that waits for approval (TTA_MODE=approve).

    Example: tta-agent approve 3 --reason "looks right on line 4"
    """
    number = _waiting(version)
    _send("approve", number, by, reason)
    _tell(f"version {number} is swapped in when the agent looks, within a second")


def reject(version: Number = None, by: By = None, reason: Reason = "") -> None:
    """Say no to the version that waits for approval; the agent goes on with fresher ones.

    Example: tta-agent reject 3 --reason "new camera next week"
    """
    number = _waiting(version)
    _send("reject", number, by, reason)
    _tell(f"version {number} is rejected when the agent looks, within a second; fresher candidates follow")


def freeze(by: By = None, reason: Reason = "") -> None:
    """No swaps from now on; the agent goes on learning and testing, and roll-backs still happen.

    Example: tta-agent freeze --reason "audit until Friday"
    """
    _send("freeze", None, by, reason)
    _tell("frozen: no version is swapped in until `tta-agent unfreeze`; roll-backs still happen")


def unfreeze(by: By = None, reason: Reason = "") -> None:
    """Allow swaps again.

    Example: tta-agent unfreeze
    """
    before = CommandInbox(_store()).frozen()
    _send("unfreeze", None, by, reason)
    _tell("swaps may happen again" if before else "it was not frozen; windows in TTA_GATE__FREEZE still hold")


def reset(by: By = None, reason: Reason = "") -> None:
    """Make the copy start over from the source: weights, optimiser, statistics, memory. What serves goes on serving.

    Example: tta-agent reset --reason "the sensor was replaced"
    """
    _send("reset", None, by, reason)
    _tell("the copy starts over from the source when the agent looks, within a second; what serves stays")


def _waiting(version: int | None) -> int:
    """The version that waits, checked against the one that was named."""
    waits = awaiting(read_status(_store()))
    if waits is None:
        named = "no version waits" if version is None else f"version {version} does not wait; none does"
        raise ConfigError(f"{named} for approval (TTA_MODE=approve asks for it); see `tta-agent versions`")
    if version not in (None, waits):
        raise ConfigError(f"version {version} does not wait for approval; did you mean {waits}?")
    return waits


def _send(kind: Kind, number: int | None, by: str | None, reason: str) -> None:
    CommandInbox(_store()).put(Command(kind, number, by or _user(), reason))


def _store() -> Path:
    store = env.load().store.path
    if not (store / "status.json").exists():
        raise ConfigError(f"TTA_STORE__PATH={store}: no agent has run here; give the folder of the agent")
    return store


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "unknown"


def _tell(text: str) -> None:
    print(text)
    quiet_s = time.time() - read_status(_store()).get("time", 0.0)
    if quiet_s > QUIET_S:
        print(
            f"(the agent has said nothing for {quiet_s:.0f} s: if it is not running, it obeys when it runs)"
        )
