"""Switch of a server between two versions: a turn that fails is undone, one that succeeded can be taken back once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from tta_agent.core.errors import SwapError

T = TypeVar("T")
NONE_BEFORE = "no version served before the live one: publish and activate one instead"


class Switch(Generic[T]):
    """The way of a driver from one version to another, and back.

    Args:
        turn: has the server answer with a version, and returns when it does; raises SwapError.
        undo: the same after a turn that has failed, of which nobody knows how far it came.
        undone: words for that, with {} for the version.
    """

    def __init__(
        self, turn: Callable[[T], None], undone: str, undo: Callable[[T], None] | None = None
    ) -> None:
        self.before: T | None = None
        self._turn, self._undone, self._undo = turn, undone, undo or turn

    def to(self, target: T, live: T) -> None:
        """Turn to a version from the live one.

        Raises:
            SwapError: it failed; the message says whether the live one was brought back.
        """
        try:
            self._turn(target)
        except SwapError as error:
            raise type(error)(f"{error}\n{self._restored(live)}") from error
        if target != live:
            self.before = live

    def back(self) -> None:
        """Turn to the version that was live before the last turn.

        Raises:
            SwapError: there is none, or the turn failed.
        """
        if self.before is None:
            raise SwapError(NONE_BEFORE)
        self._turn(self.before)
        self.before = None

    def _restored(self, live: T) -> str:
        try:
            self._undo(live)
            return self._undone.format(live)
        except SwapError as error:
            return f"{live} could not be made live again: {error}"
