"""Ways of a version into Triton: a folder that both see, or the load call itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tta_agent.core.errors import SwapError
from tta_agent.core.types import Version
from tta_agent.serving.clients.version_folder import VersionFolder

GRPC_BYTES = (2 << 30) - (16 << 20)  # of one message, with room for the rest
Files = Mapping[str, bytes]  # by name in the version's folder


class TritonRepository(Protocol):
    """Where Triton finds versions, by their numbers there."""

    def check(self) -> None:
        """Raise SwapError, with what to do, unless versions can be brought."""

    def stage(self, version: Version, keep: set[int]) -> Files:
        """Files of a version, ready to be loaded; older ones but `keep` go. None where no load call holds them."""

    def parameters(self, number: int) -> Mapping[str, str | bytes]:
        """What the load call must carry so that this version is the newest; it is in its place by then."""


class SharedFolder:
    """A folder that agent and server both see."""

    def __init__(self, folder: VersionFolder) -> None:
        self._folder = folder

    def check(self) -> None:
        """As the protocol says; the deployed version must have the number that the settings name."""
        self._folder.check()
        self._folder.check_source()

    def stage(self, version: Version, keep: set[int]) -> Files:
        """Write the version beside the others."""
        known = [number for number in self._folder.numbers() if number < max(keep)]
        self._folder.prune({*keep, *known[-1:], self._folder.number_of(version)})
        staged = self._folder.stage(version)
        try:
            found = [path for path in staged.rglob("*") if path.is_file()]
            if sum(path.stat().st_size for path in found) > GRPC_BYTES:
                return {}
            return {str(path.relative_to(staged)): path.read_bytes() for path in found}
        except OSError as error:
            raise SwapError(f"version {version.number} cannot be read back: {error}") from error

    def parameters(self, number: int) -> Mapping[str, str | bytes]:
        """Rename the version into place, newer ones out of sight; the call needs nothing."""
        self._folder.reveal(number)
        return {}


class Upload:
    """The load call carries the version; Triton keeps it in a folder of its own until it ends.

    Args:
        config: configuration of the model in the server, which the call must carry too.
        file: name of the graph.
        more: files that each version has beside it, of a Python backend for instance.
        reachable: whether the gRPC API answers; REST takes 64 MB.
    """

    def __init__(
        self, source: int, config: Callable[[], Mapping[str, Any]], file: str, more: Sequence[Path],
        reachable: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._source, self._config, self._file, self._more = source, config, file, more
        self._reachable = reachable
        self._held: dict[int, Version] = {}

    def check(self) -> None:
        """As the protocol says: gRPC must answer, and no file that the backend waits for may be missing."""
        if self._config().get("backend") == "python" and "model.py" not in [path.name for path in self._more]:
            raise SwapError(
                "Triton's Python backend waits for a model.py: name yours in the driver's option more"
            )
        if not self._reachable():
            raise SwapError(
                "versions are uploaded over Triton's gRPC API (REST takes 64 MB), which does not answer:\n"
                "set the driver's option grpc to its host:port, or repository to a folder that both see"
            )

    def stage(self, version: Version, keep: set[int]) -> Files:
        """Remember where the version is, and read it once."""
        number = self._source + version.number
        self._held = {n: held for n, held in self._held.items() if n in keep} | {number: version}
        return self._files(number)

    def parameters(self, number: int) -> Mapping[str, str | bytes]:
        """The version itself; nothing for the source, which is in the server's own repository."""
        if number == self._source:
            return {}
        files = {f"file:{number}/{name}": content for name, content in self._files(number).items()}
        return {"config": json.dumps(self._config()), **files}

    def _files(self, number: int) -> Files:
        if number not in self._held:
            raise SwapError(f"version {number - self._source} is not at hand any more: publish it again")
        version = self._held[number]
        paths = {self._file: version.path, **{name: version.path.parent / name for name in version.data}}
        paths |= {path.name: path for path in self._more}
        try:
            if (size := sum(path.stat().st_size for path in paths.values())) > GRPC_BYTES:
                raise SwapError(
                    f"{size >> 20} MB are more than gRPC takes (2 GB): set the driver's option repository"
                )
            return {name: path.read_bytes() for name, path in paths.items()}
        except OSError as error:
            raise SwapError(f"version {number - self._source} cannot be read: {error}") from error
