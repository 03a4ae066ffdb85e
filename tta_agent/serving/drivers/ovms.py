"""OpenVINO Model Server: numbered folders under a model's base path, found by its reload call or when it polls."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tta_agent.core.errors import SwapError, nearest
from tta_agent.core.types import Golden, ServerInfo, Version
from tta_agent.serving.clients.local_check import LocalCheck
from tta_agent.serving.clients.rest import OipClient
from tta_agent.serving.clients.switch import Switch
from tta_agent.serving.clients.version_folder import VersionFolder
from tta_agent.serving.drivers import TOLERANCE, check_golden

POLL_S = 0.1
AVAILABLE, FINE = "AVAILABLE", ("", "OK")


class OvmsDriver:
    """A `ServerDriver` over the folder that is a model's `base_path`.

    The server serves the newest version under its default `model_version_policy`: it loads a newer one beside the one
    that answers, and goes back where the newer one is gone. A version is staged out of its sight, opened and compared
    with the golden batch here, and renamed into place; then the server is told to reload, or found it by polling.

    Args:
        server: base address of the REST API, model, and longest wait for a version to be available.
        repository: folder with a folder for each model, as the agent sees it; the model's own is its base path.
        file: name of the graph in a version's folder.
        tolerance: largest difference of a logit from the golden batch.
    """

    def __init__(
        self, server: ServerInfo, *, repository: str, file: str = "model.onnx", tolerance: float = TOLERANCE
    ) -> None:
        """Connects at the first call only."""
        self._client, self._local = OipClient(server), LocalCheck(server, tolerance)
        self._folder = VersionFolder(Path(repository) / server.model, file, server.source)
        self._file, self._tolerance, self._timeout_s = file, tolerance, server.timeout_s
        self._switch = Switch(self._turn_to, "version {} of the server is live")

    def probe(self) -> None:
        """Raise SwapError, with what to do, unless the server has the model and versions can be written."""
        if self._folder.source < 1:
            raise SwapError(
                "OpenVINO Model Server counts versions from 1: set TTA_MODEL__SERVED_VERSION to the number of the"
                f" deployed one, not {self._folder.source}"
            )
        self._live()
        self._folder.check()
        self._folder.check_source()

    def publish(self, version: Version, golden: Golden) -> None:
        """Write the version beside the others, and compare what was written with the golden batch."""
        live = self._live()
        keep = {live, self._switch.before or live, self._folder.number_of(version)}
        older = [number for number in self._folder.numbers() if number < live]
        self._folder.prune({*keep, *older[-1:]})
        self._local.check(version, self._folder.stage(version) / self._file, golden)

    def activate(self, version: Version) -> None:
        """Rename the version into place, and wait until it is the newest that is available."""
        self._switch.to(self._folder.number_of(version), self._live())

    def verify(self, golden: Golden) -> None:
        """Compare the answer of the unversioned URL with the golden batch."""
        number, answer = self._client.infer(golden.x)
        check_golden(answer, golden, f"version {number}", self._tolerance)

    def live(self) -> int:
        """The newest version that the server calls available, as the registry counts."""
        return self._live() - self._folder.source

    def rollback(self) -> None:
        """Take the live version out of the server's sight; the one that served before is the newest then."""
        self._switch.back()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _turn_to(self, number: int) -> None:
        if not self._folder.has(number):
            raise SwapError(
                f"version {number - self._folder.source} is not in {self._folder.home}: publish it first"
            )
        self._folder.reveal(number)
        refusal = self._reload()
        deadline_s = time.monotonic() + self._timeout_s
        while self._newest(self._states()) != number:
            self._refuse_failed(number)
            if time.monotonic() > deadline_s:
                raise SwapError(self._unmoved(number, refusal))
            time.sleep(POLL_S)

    def _reload(self) -> str:
        """Tell the server to look again; its refusal, which matters only where it does not poll either."""
        try:
            self._client.send("POST", "/v1/config/reload")
            return ""
        except SwapError as error:
            return f"\n{error}"

    def _refuse_failed(self, number: int) -> None:
        status = self._states().get(number, {}).get("status") or {}
        if str(status.get("error_code") or "") not in FINE:
            told = status.get("error_message") or status["error_code"]
            raise SwapError(f"the server does not load version {number} of {self._client.model}: {told}")

    def _unmoved(self, number: int, refusal: str) -> str:
        live = self._newest(self._states())
        return (
            f"version {live} is the newest available after {self._timeout_s:g} s (TTA_SWAP__TIMEOUT_S), not"
            f" {number}.\nIs {self._folder.home} the base_path of {self._client.model} in its config.json, its"
            f" model_version_policy latest, and its --file_system_poll_wait_seconds above 0?{refusal}"
        )

    def _live(self) -> int:
        newest = self._newest(self._states())
        if newest is None:
            raise SwapError(f"{self._client.url} has no version of {self._client.model} that is available")
        return newest

    @staticmethod
    def _newest(states: Mapping[int, Mapping[str, Any]]) -> int | None:
        return max((n for n, status in states.items() if status.get("state") == AVAILABLE), default=None)

    def _states(self) -> dict[int, Mapping[str, Any]]:
        """Entries of the versions of the model, as GET /v1/config lists them."""
        models = self._client.ask("GET", "/v1/config")
        if not isinstance(models, dict) or self._client.model not in models:
            known, model = (models if isinstance(models, dict) else ()), self._client.model
            raise SwapError(f"{self._client.url} does not know the model {model}: {nearest(model, known)}")
        entries = models[self._client.model].get("model_version_status") or []
        return {int(entry["version"]): entry for entry in entries if str(entry.get("version")).isdecimal()}
