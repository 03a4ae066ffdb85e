"""Model repository of the server. A failed load leaves the loaded versions unchanged."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from pathlib import Path

from starlette.exceptions import HTTPException

from tta_agent.core.errors import GraphError
from tta_agent.core.types import Version
from tta_agent.models.ort_sessions import (
    HotSwapSession,
    Session,
    answer_shape,
    open_version,
    shapes,
)
from tta_agent.models.patched_graph import PatchedGraph
from tta_agent.registry.patches import Patch
from tta_agent.serving.server.warming import Warmth

_log = logging.getLogger(__name__)


class Repository:
    """Repository of one model: loads versions beside the live one. One thread at a time may load."""

    def __init__(
        self,
        model: str,
        pair: HotSwapSession,
        find_version: Callable[[int], Version],
        open: Callable[[Path | PatchedGraph], Session],
        find_patch: Callable[[int], Patch | None],
        warmth: Warmth,
    ) -> None:
        """Store the parts; the caller shares the pair and the warmth with the engine."""
        self._model = model
        self._pair = pair
        self._find, self._find_patch = find_version, find_patch
        self._open, self._warmth = open, warmth
        self._hashes: weakref.WeakKeyDictionary[Session, str] = weakref.WeakKeyDictionary()

    @property
    def live(self) -> int:
        """The version that answers."""
        return self._pair.current()[0]

    def load(self, number: int, *, activate: bool, sha256: str | None = None) -> str:
        """Load the version, unless it is loaded, and make it live where `activate` says so.

        Args:
            number: of the version in the registry.
            activate: False leaves it on standby: only its own URL answers with it.
            sha256: expected hash of the file; None: not checked.

        Returns:
            The hash of the file.
        """
        held = self._pair.get(number)
        # what is loaded need not be read and verified once more
        if held is not None and held in self._hashes:
            session = held
            _check_hash(number, self._hashes[session], sha256)
        else:
            found = self._find_patch(number) or self._find(number)
            _check_hash(number, found.sha256, sha256)
            session = held or self._opened(number, found)
            self._hashes[session] = found.sha256
        if activate:
            self._warmth.warm(session)
        if held is None:
            self._pair.stage(number, session)
        if activate:
            self._pair.switch(number)
        return self._hashes[session]

    def _opened(self, number: int, found: Version | Patch) -> Session:
        session = self._opened_file(number, found)
        self._check_alike(number, session)
        return session

    def _opened_file(self, number: int, found: Version | Patch) -> Session:
        if isinstance(found, Version):
            return open_version(found, self._open)
        try:
            return self._open(found.graph)
        except GraphError as error:
            _log.warning("version %d is opened from its whole file: %s", number, error)
            return open_version(self._find(number), self._open)

    def unload(self, number: int | None) -> None:
        """Let go of a version on standby.

        Raises:
            HTTPException: 404, it is not loaded; 409, it is the live one, or none is named, which means all.
        """
        live = self.live
        if number in (None, live):
            raise HTTPException(
                409,
                f"version {live} is live and would leave nothing that answers; load another one first, or name one"
                f' beside it: {{"parameters": {{"version": "{self._pair.standby or "N"}"}}}}',
            )
        if not self._pair.drop(number):
            raise HTTPException(404, f"version {number} of {self._model} is not loaded")

    def index(self) -> list[dict[str, str]]:
        """Index of the versions; `reason` is `live`, `previous` or `standby`."""
        live, standby, previous = self.live, self._pair.standby, self._pair.previous
        entries = [self._entry(live, "READY", "live")]
        if standby is not None:
            entries.append(self._entry(standby, "READY", "previous" if standby == previous else "standby"))
        if previous is not None and previous != standby:
            entries.append(self._entry(previous, "UNAVAILABLE", "previous"))
        return entries

    def _entry(self, number: int, state: str, reason: str) -> dict[str, str]:
        return {"name": self._model, "version": str(number), "state": state, "reason": reason}

    def _check_alike(self, number: int, session: Session) -> None:
        """Clients must not notice a swap but by the answers."""
        live = self._pair.current()[1]
        found, expected = (*shapes(session), answer_shape(session)), (*shapes(live), answer_shape(live))
        if found != expected:
            raise GraphError(
                f"version {number} maps {found[0]} to {found[1]} classes; the live one {expected[:2]}"
            )


def _check_hash(number: int, found: str, expected: str | None) -> None:
    if expected is not None and expected != found:
        raise HTTPException(
            400, f"version {number} has sha256 {found[:12]} here, not {expected[:12]}: another registry?"
        )
