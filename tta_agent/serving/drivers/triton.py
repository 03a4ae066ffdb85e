"""Triton Inference Server: a shared model repository in control mode `explicit` or `poll`, or uploads over gRPC."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from tta_agent.core.errors import SwapError
from tta_agent.core.types import Array, Golden, ServerInfo, Version
from tta_agent.serving.clients.local_check import LocalCheck
from tta_agent.serving.clients.rest import OipClient
from tta_agent.serving.clients.switch import Switch
from tta_agent.serving.clients.triton_grpc import TritonGrpc
from tta_agent.serving.clients.triton_repository import Files, SharedFolder, TritonRepository, Upload
from tta_agent.serving.clients.version_folder import VersionFolder
from tta_agent.serving.drivers import TOLERANCE, check_golden

log = logging.getLogger(__name__)

NOBODY = "tta-no-such-model"  # asked for to learn whether the server loads on demand
REFUSED = "is not allowed"
POLL_S = 0.1


class TritonDriver:
    """A `ServerDriver` over Triton's repository: a folder that both see, or none, and each load carries the version.

    A version is staged beside the others, loaded under another name (from memory: nothing is on the disk that the
    server could find) and compared with the golden batch; then it is renamed into place and loaded, while the one
    before answers until the new one is ready. Loads go over gRPC: over REST a load holds up the requests of all
    connections of its HTTP thread until it ends.

    Args:
        server: base address of the REST API, model and longest wait for one call; a load may take long.
        repository: model repository, as the agent sees it; None: versions are uploaded.
        more: files that an uploaded version has beside its graph.
        control: the server's --model-control-mode, `explicit` or `poll`.
        grpc: host:port of the gRPC API; None: port 8001 of the same host.
        file: name of the graph in a version's folder.
        standby: try each version under another name first.
        key: name of the header that carries TTA_SWAP__TOKEN (--http-restricted-api, --grpc-restricted-protocol).
        tolerance: largest difference of a logit from the golden batch.
    """

    def __init__(
        self,
        server: ServerInfo,
        *,
        repository: str | None = None,
        more: Sequence[str] = (),
        control: str = "explicit",
        grpc: str | None = None,
        file: str = "model.onnx",
        standby: bool = True,
        key: str = "tta-key",
        tolerance: float = TOLERANCE,
    ) -> None:
        """Connects at the first call only."""
        if control not in ("explicit", "poll"):
            raise ValueError(f"control is {control!r}; expected explicit or poll")
        token = {key: server.token} if server.token else {}
        self._rest = OipClient(server, token)
        address = grpc or f"{urlsplit(server.url).hostname}:8001"
        rpc = {f"triton-grpc-protocol-{name}".lower(): value for name, value in token.items()}
        self._grpc = TritonGrpc(address, server.timeout_s, rpc)
        self._source = server.source
        self._repository: TritonRepository = (
            Upload(server.source, self._settled, file, [Path(path) for path in more], self._grpc.reachable)
            if repository is None
            else SharedFolder(VersionFolder(Path(repository) / server.model, file, server.source))
        )
        self._polls, self._tries, self._tolerance = control == "poll", standby, tolerance
        self._timeout_s, self._local = server.timeout_s, LocalCheck(server, tolerance)
        self._switch = Switch(self._turn_to, "version {} of the server is live", self._turn_back_to)
        self._config: dict[str, Any] | None = None

    def probe(self) -> None:
        """Raise SwapError, with what to do, unless server and repository let a version in."""
        if "model_repository" not in self._rest.extensions():
            raise SwapError(f"{self._rest.url} is no Triton: it has no model_repository extension")
        self._rest.check_known()
        self._repository.check()
        self._check_policy()
        if not self._polls:
            self._check_control()

    def publish(self, version: Version, golden: Golden) -> None:
        """Stage the version, and try it under another name."""
        live = self._live()
        files = self._repository.stage(version, {live, self._switch.before or live})
        if not files:
            log.warning(
                "version %d is larger than a load call holds (2 GB): it is tried here only", version.number
            )
            self._local.check(version, version.path, golden)
        elif self._tries and not self._polls:
            self._try(version, files, golden)

    def activate(self, version: Version) -> None:
        """Rename the version into place and have it loaded; the one before answers until it is ready."""
        self._switch.to(self._source + version.number, self._live())

    def verify(self, golden: Golden) -> None:
        """Compare the answer of the unversioned URL with the golden batch."""
        number, answer = self._answer(golden.x)
        check_golden(answer, golden, f"version {number}", self._tolerance)

    def live(self) -> int:
        """The newest version that the server's index calls ready, as the registry counts."""
        return self._live() - self._source

    def rollback(self) -> None:
        """Hide the live version and load the one that served before."""
        self._switch.back()

    def close(self) -> None:
        """Close the connections."""
        self._rest.close()
        self._grpc.close()

    def _live(self) -> int:
        ready = [
            e for e in self._rest.index() if e.get("name") == self._rest.model and e.get("state") == "READY"
        ]
        numbers = [int(number) for entry in ready if (number := str(entry.get("version"))).isdecimal()]
        if not numbers:
            raise SwapError(
                f"{self._rest.url} has no version of {self._rest.model} that is ready: look into its log"
            )
        return max(numbers)

    def _turn_to(self, number: int) -> None:
        parameters = self._repository.parameters(number)
        if not self._polls:
            self._load(self._rest.model, parameters)
        deadline_s = time.monotonic() + (self._timeout_s if self._polls else 0.0)
        while (live := self._live()) != number and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
        if live != number:
            raise SwapError(self._unmoved(live, number))

    def _unmoved(self, live: int, number: int) -> str:
        if self._polls:
            waited = f"after {self._timeout_s:g} s (TTA_SWAP__TIMEOUT_S)"
            return f"version {live} still answers {waited}, not {number}: how often does the server poll?"
        return (
            f"the server says that it has loaded {self._rest.model}, but version {live} answers, not {number}.\n"
            "It sees no newer change time in its repository: is the option repository that folder, and do both"
            " machines have one clock?"
        )

    def _load(self, model: str, parameters: Mapping[str, str | bytes] | None = None) -> None:
        if self._grpc.reachable():
            self._grpc.load(model, parameters)
        else:
            log.warning("%s: requests wait while the server loads over REST", self._no_grpc())
            self._rest.load(model=model)

    def _no_grpc(self) -> str:
        return f"Triton's gRPC API is not at {self._grpc.address} (option grpc of the driver)"

    def _try(self, version: Version, given: Files, golden: Golden) -> None:
        """Load the version under another name, compare its answer, and unload it."""
        if not self._grpc.reachable():
            log.warning("%s: version %d is not tried before it answers", self._no_grpc(), version.number)
            return
        name, number = f"{self._rest.model}-tta-standby", self._source + version.number
        files = {f"file:{number}/{path}": content for path, content in given.items()}
        config = {**self._settled(), "name": name, "version_policy": {"latest": {"num_versions": 1}}}
        try:
            self._grpc.load(name, {"config": json.dumps(config), **files})
            _, answer = self._answer(golden.x, name)
            check_golden(answer, golden, f"version {version.number}", self._tolerance)
        except SwapError as error:
            raise type(error)(f"version {version.number} is not published: {error}") from error
        finally:
            self._grpc.unload(name)

    def _answer(self, x: Array, model: str | None = None) -> tuple[str | None, Array]:
        """Version that answered, and its answer, in batches that the server takes."""
        size = int(self._settled().get("max_batch_size") or 0) or len(x)
        answers = [self._rest.infer(x[at : at + size], model=model) for at in range(0, len(x), size)]
        return answers[-1][0], np.concatenate([answer for _, answer in answers])

    def _settled(self) -> dict[str, Any]:
        """Configuration of the model in the server."""
        if self._config is None:
            self._config = dict(self._rest.ask("GET", f"/v2/models/{self._rest.model}/config"))
        return self._config

    def _check_policy(self) -> None:
        policy = self._settled().get("version_policy") or {}
        if "specific" in policy:
            raise SwapError(
                f"{self._rest.model} has version_policy specific {policy['specific'].get('versions')}: a new version"
                " would not be loaded.\nWrite `version_policy: { latest { num_versions: 1 } }` into its config.pbtxt."
            )

    def _check_control(self) -> None:
        try:
            self._load(NOBODY)
        except SwapError as error:
            if REFUSED in str(error):
                raise SwapError(
                    f"{self._rest.url} loads no model on demand: its --model-control-mode is none, the default, or"
                    f" poll.\nStart Triton with --model-control-mode=explicit --load-model={self._rest.model}, or set"
                    ' the option control of the driver to "poll".'
                ) from error

    def _turn_back_to(self, number: int) -> None:
        """Undo a turn of which we do not know how far it came."""
        if self._live() == number:
            self._repository.parameters(number)
        else:
            self._turn_to(number)
