"""Check of a version as it was written for a server: it is opened and asked before the server sees it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tta_agent.core.errors import GraphError, SwapError
from tta_agent.core.types import Golden, ServerInfo, Version
from tta_agent.models.ort_sessions import Session, open_session, open_version, raw_answer
from tta_agent.models.outputs import ModelOutput
from tta_agent.serving.drivers import check_golden


class LocalCheck:
    """Sessions of written files on this machine's CPU.

    Args:
        server: names the output that is the answer.
        tolerance: largest difference of a logit from the golden batch.
    """

    def __init__(self, server: ServerInfo, tolerance: float) -> None:
        self._output, self._tolerance = ModelOutput(server.output), tolerance

    def check(self, version: Version, path: Path, golden: Golden) -> None:
        """Raise SwapError unless a written version has its hash, opens and answers as the golden batch says."""
        try:
            written = replace(version, path=path)
            # The owner's file of the source may be written otherwise than the registry's.
            session = open_version(written, self.open) if version.number else self.open(path)
            self.compare(version.number, session, golden)
        except GraphError as error:
            raise SwapError(f"version {version.number} is not published: {error}") from error

    def compare(self, number: int, session: Session, golden: Golden) -> None:
        """Raise WrongAnswer unless a session answers as the golden batch says."""
        check_golden(raw_answer(session, golden.x), golden, f"version {number}", self._tolerance)

    def open(self, path: Path) -> Session:
        """Session of a file."""
        return open_session(path, output=self._output)
