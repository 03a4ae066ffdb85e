"""Server and agent as processes of their own, as in production."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx

from tta_agent.core.errors import TtaError

READY_WITHIN_S = 120.0


class Child:
    """A `tta-agent` command as a child process, its output in a file."""

    def __init__(self, command: str, environ: Mapping[str, str], log: Path) -> None:
        self.command, self._environ, self.log = command, dict(environ), log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, or start it again."""
        keep = {name: value for name, value in os.environ.items() if not name.startswith("TTA_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tta_agent", self.command],
                env={**keep, **self._environ},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the demo, which ends its children in order
            )

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process is not None
        return self._process.pid

    def died(self) -> bool:
        """Whether the process has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def kill(self) -> None:
        """Send SIGKILL, as the out-of-memory killer does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self, within_s: float = 15.0) -> int | None:
        """Send SIGTERM, and SIGKILL after `within_s`.

        Returns:
            The exit status; None where nothing was started.
        """
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.returncode

    def wait_until(self, ready: Callable[[], bool], what: str) -> None:
        """Wait until `ready` returns true; `what` is its name for the message.

        Raises:
            TtaError: the process died or takes too long, with the end of its log.
        """
        deadline_s = time.monotonic() + READY_WITHIN_S
        while not ready():
            if self.died() or time.monotonic() > deadline_s:
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])
                raise TtaError(f"{what} did not start; the end of {self.log}:\n{tail}")
            time.sleep(0.1)


def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether the server at `url` is ready."""
    try:
        return httpx.get(f"{url}/v2/health/ready", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
