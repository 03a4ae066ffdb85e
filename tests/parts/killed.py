"""An agent that is killed at a step of its own swap. Run as a program: it forks once for each line on its input.

`STEP NUMBER` has the fork promote version NUMBER of the registry, and SIGKILL itself before step STEP: a change in
the file system, or a call of the server, which counts before and after. What became of it is answered on a line.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tta_agent.core import plugins
from tta_agent.core.types import ServerInfo
from tta_agent.models.ort_sessions import open_session
from tta_agent.registry.registry import ModelRegistry
from tta_agent.serving.clients.rest import OipClient
from tta_agent.serving.clients.triton_grpc import TritonGrpc
from tta_agent.serving.deployment import ServedModel
from tta_agent.serving.promotion import PromotionRecord
from tta_agent.telemetry.event_log import EventLog
from tta_agent.telemetry.facade import Telemetry

CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.symlink", "os.link"}


def agent(folder: Path, driver: Mapping[str, Any]) -> ServedModel:
    """The served model of an agent with its registry in the folder.

    Args:
        driver: `name`, `options` and `server`, the fields of ServerInfo.
    """
    made = plugins.make(
        "drivers", driver["name"], {driver["name"]: driver["options"]}, ServerInfo(**driver["server"])
    )
    registry = ModelRegistry(folder / "versions")
    return ServedModel(
        registry, made, Telemetry.off(), EventLog(folder), registry.golden_inputs(), open_session
    )


class Victims:
    """Forks of one process that are killed, one after the other."""

    def __init__(self, folder: Path, driver: Mapping[str, Any]) -> None:
        command = [sys.executable, "-m", "tests.parts.killed", str(folder), json.dumps(driver)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def killed(self, step: int, number: int) -> bool:
        """Whether the fork was killed; False where it ended before that step."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{step} {number}\n")
        self._process.stdin.flush()
        told = self._process.stdout.readline().strip()
        assert told in ("killed", "ended"), told
        return told == "killed"

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@contextlib.contextmanager
def victims(folder: Path, driver: Mapping[str, Any]) -> Iterator[Victims]:
    """Victims that are there for as long as the context is open."""
    made = Victims(folder, driver)
    try:
        yield made
    finally:
        made.close()


def _kill_before(step: int) -> None:
    steps = itertools.count(1)

    def on_step() -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        writes = (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if event in CHANGES or writes:
            on_step()

    def around(call: Any) -> Any:
        def called(*arguments: Any, **named: Any) -> Any:
            on_step()
            answer = call(*arguments, **named)
            on_step()
            return answer

        return called

    sys.addaudithook(on_event)
    OipClient.send = around(OipClient.send)  # type: ignore[method-assign]
    TritonGrpc._call = around(TritonGrpc._call)  # type: ignore[method-assign]


def _promote(folder: Path, driver: Mapping[str, Any], step: int, number: int) -> None:
    model = agent(folder, driver)
    version = model.registry.get(number)
    session = open_session(version.path)
    _kill_before(step)
    assert model.promote(version, session, PromotionRecord("certified", [], {}), None)


def _main(folder: Path, driver: Mapping[str, Any]) -> None:
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        step, number = map(int, line.split())
        if (pid := os.fork()) == 0:
            _promote(folder, driver, step, number)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print("killed" if killed else "ended" if status == 0 else f"failed with {status}", flush=True)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), json.loads(sys.argv[2]))
