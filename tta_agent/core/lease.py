"""Sole ownership of a store: one agent writes, a second one waits as standby.

`<store>/lease.json` names the owner, counts its heartbeats, and carries a token that grows with every owner. A
standby takes over when the lease was given back, when the owner's process is gone from this machine, or when the
heartbeat has stood still for `ttl_s` by the standby's own clock; clocks of two machines are never compared. An
owner that was away meanwhile finds another token in the file, and may not write any more: `check` is called before
each write (Kleppmann, "Designing Data-Intensive Applications", O'Reilly 2017, chapter 8: fencing).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tta_agent.core import json_text
from tta_agent.core.atomic_files import write_atomic
from tta_agent.core.errors import ConfigError, LeaseLost
from tta_agent.core.os_errors import describe

TTL_S = 15.0  # a heartbeat comes five times as often


@dataclass(frozen=True, slots=True)
class Holder:
    """The owner as the file names it; `key` tells two processes apart, "" where the lease was given back."""

    host: str
    pid: int
    key: str
    token: int
    beat: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lease:
    """The lease of one store.

    Args:
        store: the agent's folder.
        ttl_s: how long a heartbeat may stand still.

    Raises:
        ConfigError: the folder cannot be written.
    """

    def __init__(self, store: Path, ttl_s: float = TTL_S) -> None:
        self._file, self._lock, self._ttl_s = store / "lease.json", store / "lease.lock", ttl_s
        self._mine = Holder(socket.gethostname(), os.getpid(), uuid.uuid4().hex, 0, 0)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        try:
            store.mkdir(parents=True, exist_ok=True)
            self._lock.touch()
        except OSError as error:
            raise ConfigError(f"TTA_STORE__PATH: {describe(error)}") from None

    def acquire(
        self, stopped: Callable[[], bool], waiting: Callable[[Holder], Any] = lambda holder: None
    ) -> bool:
        """Wait for the lease; False where `stopped()` came first.

        Args:
            waiting: called at every look at an owner that is alive.
        """
        seen: Holder | None = None
        since_s = time.monotonic()
        while not stopped():
            with self._locked():
                holder = self._read()
                if holder != seen:
                    seen, since_s = holder, time.monotonic()
                if self._free(holder) or time.monotonic() - since_s >= self._ttl_s:
                    self._take(holder)
                    return True
            assert holder is not None
            waiting(holder)
            time.sleep(min(self._ttl_s / 5, 1.0))
        return False

    def _free(self, holder: Holder | None) -> bool:
        if holder is None or not holder.key:
            return True
        here = holder.host == self._mine.host
        return here and (holder.pid == self._mine.pid or not _alive(holder.pid))

    def _take(self, holder: Holder | None) -> None:
        self._mine = replace(self._mine, token=(holder.token if holder else 0) + 1, beat=0)
        self._write(self._mine)
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._ended.wait(self._ttl_s / 5):
            with contextlib.suppress(LeaseLost, OSError), self._locked():
                self._refuse_others()
                self._mine = replace(self._mine, beat=self._mine.beat + 1)
                self._write(self._mine)

    def check(self) -> None:
        """Called before every write.

        Raises:
            LeaseLost: another agent has taken over.
        """
        self._refuse_others()

    def _refuse_others(self) -> None:
        holder = self._read()
        if holder is None:
            raise LeaseLost(
                f"TTA_STORE__PATH: {self._file} was removed or damaged while this agent ran: it must not write any"
                " more;\nstart it again (without its checkpoint it starts from the source)"
            )
        if holder.token != self._mine.token:
            raise LeaseLost(f"{holder} owns {self._file.parent} now: this agent must not write any more")

    def abandon(self) -> None:
        """Give it back from a signal handler, which may have interrupted this very class: takes no lock."""
        with contextlib.suppress(LeaseLost, OSError):
            if self._thread is not None:
                self._refuse_others()
                self._write(replace(self._mine, key=""))

    def release(self) -> None:
        """Give it back, so that a standby need not wait. Idempotent."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            with contextlib.suppress(LeaseLost, OSError), self._locked():
                self._refuse_others()
                self._write(replace(self._mine, key=""))

    def _read(self) -> Holder | None:
        try:
            return Holder(**json_text.parse_object(self._file.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def _write(self, holder: Holder) -> None:
        write_atomic(self._file, json.dumps(asdict(holder)).encode())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
