"""No model server: versions are written to the registry, and others bring them into service."""

from __future__ import annotations

from tta_agent.core.types import Golden, ServerInfo, Version


class NoDriver:
    """A `ServerDriver` that touches no server; the version that was activated last counts as live."""

    def __init__(self, server: ServerInfo | None = None) -> None:
        self._live = self._before = 0

    def probe(self) -> None:
        """Nothing to reach."""

    def publish(self, version: Version, golden: Golden) -> None:
        """Nothing to do: the registry has it already."""

    def activate(self, version: Version) -> None:
        """Take it for live."""
        self._before, self._live = self._live, version.number

    def verify(self, golden: Golden) -> None:
        """Nothing to ask."""

    def live(self) -> int:
        """The version that was activated last; 0 at first."""
        return self._live

    def rollback(self) -> None:
        """Take the version before for live."""
        self._live = self._before

    def close(self) -> None:
        """Nothing to free."""
