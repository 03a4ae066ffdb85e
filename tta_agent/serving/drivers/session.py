"""Driver of a server in this process: two ONNX Runtime sessions and one reference, for replay and own servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tta_agent.core.errors import GraphError, SwapError, WrongAnswer
from tta_agent.core.types import Golden, Version
from tta_agent.models.ort_sessions import HotSwapSession, Session, open_version, raw_answer
from tta_agent.serving.clients.switch import NONE_BEFORE
from tta_agent.serving.drivers import TOLERANCE, check_golden


class SessionDriver:
    """A `ServerDriver` over a HotSwapSession. Not for TTA_SWAP__DRIVER: it needs the server's own sessions.

    Args:
        pair: sessions, shared with the code that answers.
        open: makes a session of a file, e.g. `ort_sessions.open_session`.
        tolerance: largest difference of a logit from the golden batch.
    """

    def __init__(
        self, pair: HotSwapSession, open: Callable[[Path], Session], *, tolerance: float = TOLERANCE
    ) -> None:
        """Store the parts."""
        self._pair = pair
        self._open = open
        self._tolerance = tolerance

    def probe(self) -> None:
        """Nothing to check: a pair can always be swapped."""

    def publish(self, version: Version, golden: Golden) -> None:
        """Open the version, check it on the golden batch, and keep it on standby."""
        try:
            session = open_version(version, self._open)
            self._check(version.number, session, golden)
        except GraphError as error:
            raise SwapError(f"version {version.number} is not published: {error}") from error
        if version.number != self._pair.current()[0]:
            self._pair.stage(version.number, session)

    def activate(self, version: Version) -> None:
        """Make the published version answer."""
        self._pair.switch(version.number)

    def verify(self, golden: Golden) -> None:
        """Run the live version on the golden batch."""
        number, session = self._pair.current()
        try:
            self._check(number, session, golden)
        except GraphError as error:
            raise WrongAnswer(f"version {number} is live but fails: {error}") from error

    def live(self) -> int:
        """Number of the live version."""
        return self._pair.current()[0]

    def rollback(self) -> None:
        """Switch back to the session on standby, if it is the one that served before."""
        previous = self._pair.previous
        if previous is None:
            raise SwapError(NONE_BEFORE)
        if self._pair.get(previous) is None:
            raise SwapError(
                f"version {previous} served before, but another was loaded in its place since:\n"
                f"publish version {previous} again, then activate it"
            )
        self._pair.switch(previous)

    def close(self) -> None:
        """Nothing to free: the pair is its owner's."""

    def _check(self, number: int, session: Session, golden: Golden) -> None:
        check_golden(raw_answer(session, golden.x), golden, f"version {number}", self._tolerance)
