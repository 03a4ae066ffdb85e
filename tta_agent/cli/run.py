"""`tta-agent run`: from the settings to a running agent, and in order to its end."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from tta_agent.assembly import build, preflight
from tta_agent.core.lease import Holder, Lease
from tta_agent.pipeline.agent import Agent
from tta_agent.registry.factory import open_registry
from tta_agent.settings.schema import Settings

log = logging.getLogger(__name__)


class Lifecycle:
    """One agent from its start, as standby perhaps, to its end.

    SIGINT and SIGTERM end it with status 0: at once while nothing runs yet, else between two batches, with a last
    checkpoint.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings, self._lease = settings, Lease(settings.store.path)
        self._agent: Agent | None = None
        self._standby: str | None = None

    def run(self) -> None:
        """Until it is told to stop.

        Raises:
            TtaError: settings, model, stream, server or store do not allow it, or another agent has taken over.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        preflight.check_plugins(self._settings)
        preflight.check_files(self._settings)
        registry = open_registry(self._settings)
        interface = build.open_interface(self._settings, registry, self._status, self._metrics)
        try:
            self._run()
        finally:
            if interface:
                interface.close()
            if self._agent:
                self._agent.telemetry.shutdown()
            self._lease.release()
        self._leave()

    def _run(self) -> None:
        source = build.load_source(self._settings)
        print(build.describe(self._settings, source), flush=True)
        self._lease.acquire(lambda: False, self._wait)
        self._standby = None
        agent = build.agent(self._settings, source, fence=self._lease.check)
        resumed = agent.resume()
        rounds = agent.learner.adaptation.rounds
        print(f"resumed after {rounds} rounds" if resumed else "starting from the source", flush=True)
        self._agent = agent
        agent.run()

    def _on_signal(self, *_: object) -> None:
        if self._agent is None:  # an exception here could be lost in the libraries that load the model
            self._lease.abandon()
            _exit_now()
        self._agent.stop()

    def _wait(self, holder: Holder) -> None:
        if self._standby is None:
            print(
                f"standby: {holder} owns {self._settings.store.path}; taking over when it is gone", flush=True
            )
        self._standby = f"standby: {holder} owns the store"

    def _status(self) -> Mapping[str, Any]:
        if self._agent is None:
            return {"ready": False, "reason": self._standby or "starting"}
        return self._agent.journal.now()

    def _metrics(self) -> bytes | None:
        return self._agent.telemetry.exposition() if self._agent else b""  # a standby has none yet

    def _leave(self) -> None:
        """A stage that hangs in native code would abort an orderly exit of the interpreter."""
        if self._agent and self._agent.unfinished:
            late = ", ".join(self._agent.unfinished)
            log.warning("%s did not end in time: the checkpoint before stands, and nothing is lost", late)
            _exit_now()


def _exit_now() -> NoReturn:
    """With status 0, past whatever native code runs in other threads."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)
