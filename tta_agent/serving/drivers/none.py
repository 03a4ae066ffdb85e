"""No server is touched: versions are written to the ledger, and somebody else brings them into service."""

from __future__ import annotations

from tta_agent.core.types import Golden, Version


class NoDriver:
    """A Swapper without a server; the version that was activated last counts as live."""

    def __init__(self, live: int = 0) -> None:
        self._live = self._before = live

    def probe(self) -> None:
        """Nothing to reach."""

    def publish(self, version: Version, golden: Golden) -> None:
        """The ledger has it already."""

    def activate(self, version: Version) -> None:
        """Remember it."""
        self._before, self._live = self._live, version.number

    def verify(self, golden: Golden) -> None:
        """Nobody to ask."""

    def live(self) -> int:
        """What was activated last."""
        return self._live

    def rollback(self) -> None:
        """Remember the one before."""
        self._live = self._before

    def close(self) -> None:
        """Nothing to free."""
