"""Versions in a folder, and a link to the one that is to serve: for servers that watch files, and for own code."""

from __future__ import annotations

from pathlib import Path

from tta_agent.core.errors import SwapError
from tta_agent.core.types import Golden, ServerInfo, Version
from tta_agent.serving.clients.pointed_folder import PointedFolder
from tta_agent.serving.clients.pointer import Undo
from tta_agent.serving.clients.switch import NONE_BEFORE
from tta_agent.serving.drivers import TOLERANCE


class FilesDriver:
    """A `ServerDriver` without a server: REPOSITORY/MODEL/NUMBER/model.onnx, and the link REPOSITORY/MODEL/current.

    A reader resolves the link once, and loads what it leads to: each version is written whole, checked and never
    changed, and the link moves by one rename. The one that is pointed at and the one before stay.

    Args:
        server: the model's name; its address is not asked.
        repository: folder with a folder for each model.
        file: name of the graph in a version's folder.
        tolerance: largest difference of a logit from the golden batch.
    """

    def __init__(
        self, server: ServerInfo, *, repository: str, file: str = "model.onnx", tolerance: float = TOLERANCE
    ) -> None:
        self._folder = PointedFolder(Path(repository), server, file, tolerance)
        self._undo: Undo | None = None

    def probe(self) -> None:
        """Raise SwapError, with what to do, unless versions can be written."""
        self._folder.check()

    def publish(self, version: Version, golden: Golden) -> None:
        """Write the version beside the others, and compare what was written with the golden batch."""
        self._folder.publish(version, golden)

    def activate(self, version: Version) -> None:
        """Move the link."""
        if self.live() != version.number or not self._folder.points:
            self._undo = self._folder.point(version)

    def verify(self, golden: Golden) -> None:
        """Compare the answer of the graph behind the link with the golden batch."""
        self._folder.verify(golden)

    def live(self) -> int:
        """The version behind the link, as the registry counts; 0 where there is no link yet."""
        return self._folder.pointed() - self._folder.source

    def rollback(self) -> None:
        """Move the link to the version before."""
        if self._undo is None:
            raise SwapError(NONE_BEFORE)
        self._undo()
        self._undo = None

    def close(self) -> None:
        """Nothing to free."""
