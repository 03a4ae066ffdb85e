"""Commands to a running agent, as small files in `<store>/inbox/`, and its last status.

A file is written whole and then renamed, so that the agent never sees half of one. Names sort by time. Whether
swaps are frozen is a file too, `<store>/frozen.json`: it holds from the moment of the command, also while no agent
runs, and survives restarts.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import reprlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from tta_agent.core.atomic_files import write_atomic
from tta_agent.core.errors import ConfigError, nearest
from tta_agent.core.os_errors import describe

Kind: TypeAlias = Literal["approve", "reject", "rollback", "freeze", "unfreeze", "reset"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MAX_TEXT = 500  # characters of a name or a reason
MAX_NUMBER = 10**18  # of a version
_count = itertools.count()
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `number` is a version: approve and reject need one, rollback may name one.

    Raises:
        ConfigError: an unknown kind, no version where one is needed, or text that is too long.
    """

    kind: Kind
    number: int | None = None
    by: str = "unknown"
    reason: str = ""
    time: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"no command {self.kind!r}; {nearest(str(self.kind), KINDS)}")
        if self.number is None and self.kind in ("approve", "reject"):
            raise ConfigError(f"{self.kind} needs the number of a version")
        whole = isinstance(self.number, int) and not isinstance(self.number, bool) and self.number >= 0
        if not (self.number is None or (whole and self.number < MAX_NUMBER)):
            raise ConfigError(f"version is {reprlib.repr(self.number)}; expected a whole number from 0")
        for name, text in (("by", self.by), ("reason", self.reason)):
            if not isinstance(text, str) or len(text) > MAX_TEXT or not _is_unicode(text):
                raise ConfigError(f"{name} is {reprlib.repr(text)}; expected {MAX_TEXT} characters at most")


class CommandInbox:
    """Inbox of one agent.

    Args:
        store: the agent's folder (`TTA_STORE__PATH`).
    """

    def __init__(self, store: Path) -> None:
        self._folder, self._frozen = store / "inbox", store / "frozen.json"
        self._known: tuple[tuple[int, int] | None, str | None] = (None, None)

    def put(self, command: Command) -> None:
        """Send a command; durable when this returns. A freeze holds at once.

        Raises:
            ConfigError: the folder cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if command.kind == "freeze":
                told = {"by": command.by, "reason": command.reason, "time": command.time}
                write_atomic(self._frozen, json.dumps(told).encode())
            elif command.kind == "unfreeze":
                self._frozen.unlink(missing_ok=True)
            name = f"{time.time_ns():020d}-{os.getpid()}-{next(_count):06d}.json"
            write_atomic(self._folder / name, json.dumps(asdict(command)).encode())
        except OSError as error:
            raise ConfigError(f"TTA_STORE__PATH: {describe(error)}") from None

    def take(self) -> list[Command]:
        """Take all commands since the last call, oldest first, each once.

        A file that holds no command is moved to `inbox/bad`. Cheap where there is nothing: one look at a folder.
        """
        try:
            names = sorted(name for name in os.listdir(self._folder) if name.endswith(".json"))  # noqa: PTH208
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("no command can be read: %s", error)
            return []
        return [command for name in names if (command := self._read(self._folder / name))]

    def _read(self, path: Path) -> Command | None:
        try:
            command = Command(**json.loads(path.read_bytes()))
            path.unlink()  # first: a command that brings the agent down must not do so again and again
        except FileNotFoundError:  # somebody else has taken it
            return None
        except (OSError, ValueError, TypeError, RecursionError, ConfigError) as error:
            self._put_aside(path, error)
            return None
        return command

    def _put_aside(self, path: Path, error: Exception) -> None:
        log.warning("%s is no command, moved to %s: %s", path.name, self._folder / "bad", error)
        try:
            (self._folder / "bad").mkdir(exist_ok=True)
            path.replace(self._folder / "bad" / path.name)
        except OSError as failure:
            log.warning("it could not be moved: %s", failure)

    def frozen(self) -> str | None:
        """Sentence about who has frozen the swaps, and why; None where nobody has. Cheap: the file is read once."""
        try:
            found = self._frozen.stat()
        except OSError:
            return None
        seen = (found.st_mtime_ns, found.st_ino)
        if self._known[0] != seen:
            self._known = (seen, _sentence(self._frozen))
        return self._known[1]


def _is_unicode(text: str) -> bool:
    return not any(
        "\ud800" <= letter <= "\udfff" for letter in text
    )  # halves of pairs: no file may hold them


def _sentence(path: Path) -> str:
    told = _read_json(path)  # whatever a person has put there: a file called frozen.json means frozen
    why = f": {told['reason']}" if told.get("reason") else ""
    return f"frozen by {told.get('by', 'a file that cannot be read')}{why}"


def read_status(store: Path) -> dict[str, Any]:
    """Last status that the agent wrote; empty where there is none."""
    return _read_json(store / "status.json")


def awaiting(status: Mapping[str, Any]) -> int | None:
    """Version that awaits approval, or None."""
    number = status.get("awaiting")
    return number if isinstance(number, int) else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
