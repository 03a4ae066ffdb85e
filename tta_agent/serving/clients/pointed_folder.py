"""Version folders with a pointer to the one that is to be loaded."""

from __future__ import annotations

from pathlib import Path

from tta_agent.core.errors import GraphError, SwapError, WrongAnswer
from tta_agent.core.types import Golden, ServerInfo, Version
from tta_agent.models.ort_sessions import Session
from tta_agent.serving.clients.local_check import LocalCheck
from tta_agent.serving.clients.pointer import Undo, pointer
from tta_agent.serving.clients.version_folder import VersionFolder


class PointedFolder:
    """Folder of a model: HOME/NUMBER/FILE, and the pointer to one of them.

    Args:
        repository: folder with a folder for each model.
        file: name of the graph in a version's folder.
        tolerance: largest difference of a logit from the golden batch.
    """

    def __init__(self, repository: Path, server: ServerInfo, file: str, tolerance: float) -> None:
        self._home, self._file, self._local = repository / server.model, file, LocalCheck(server, tolerance)
        self._folder = VersionFolder(self._home, file, server.source)
        self._opened: tuple[tuple[int, int, int], Session] | None = None

    def check(self) -> None:
        """Raise SwapError, with what to do, unless versions can be written."""
        self._folder.check()
        if self.pointed() < self.source:
            raise SwapError(
                f"{self._home} points at version {self.pointed()}, but the deployed model is version {self.source}:\n"
                "set TTA_MODEL__SERVED_VERSION to the number that the server's owner gave it"
            )

    def publish(self, version: Version, golden: Golden) -> None:
        """Write the version whole, open what was written, and compare its answer with the golden batch."""
        number = self._folder.number_of(version)
        self._folder.prune({number, self.pointed()})
        self._local.check(version, self._folder.stage(version) / self._file, golden)
        self._folder.place(number)

    def verify(self, golden: Golden) -> None:
        """Raise WrongAnswer where the version that is pointed at answers otherwise than the golden batch says."""
        number = self.pointed()
        try:
            status = self.path(number).stat()
            key = number, status.st_size, status.st_mtime_ns
            if self._opened is None or self._opened[0] != key:
                self._opened = key, self._local.open(self.path(number))
            self._local.compare(number - self.source, self._opened[1], golden)
        except FileNotFoundError:  # the source, where its owner keeps it elsewhere
            return
        except (GraphError, OSError) as error:
            raise WrongAnswer(f"version {number - self.source} is pointed at but fails: {error}") from error

    @property
    def points(self) -> bool:
        """Whether a version of ours was ever pointed at."""
        return pointer(self._home, self._file).read() is not None

    def pointed(self) -> int:
        """Number in the server of the version that is pointed at; the source's where none of ours ever was."""
        found = pointer(self._home, self._file).read()
        return self._folder.source if found is None else found

    def point(self, version: Version) -> Undo:
        """Point at a published version; returns the way back."""
        number = self._folder.number_of(version)
        if not self.path(number).exists():
            raise SwapError(f"version {version.number} is not in {self._home}: publish it first")
        return pointer(self._home, self._file).write(number)

    def path(self, number: int) -> Path:
        """Graph of a version by its number in the server."""
        return self._home / str(number) / self._file

    def number_of(self, version: Version) -> int:
        """Number in the server of a version of the registry."""
        return self._folder.number_of(version)

    @property
    def source(self) -> int:
        """Number in the server of the deployed version."""
        return self._folder.source
