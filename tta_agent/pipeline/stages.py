"""Stages of the pipeline: a queue bounded in bytes and the thread behind it, or a direct call (replay)."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol


class NextStage(Protocol):
    """The next stage, as the one before it sees it."""

    def put(self, item: Any, nbytes: int = 0) -> None:
        """Hand an item on; waits while the stage holds more than its limit."""

    def full(self) -> bool:
        """Whether it holds more than its limit."""


class DirectStage:
    """The next stage works at once, in the caller's thread."""

    def __init__(self, work: Callable[[Any], None]) -> None:
        self._work = work

    def put(self, item: Any, nbytes: int = 0) -> None:
        """Work on it now."""
        self._work(item)

    def full(self) -> bool:
        """Never."""
        return False


class ThreadedStage:
    """The next stage works in a thread of its own. It holds `limit_bytes` and one item at most.

    Args:
        work: called with each item, in order.
        idle: called when nothing came for `tick_s`.
        limit_bytes: of the items that wait and the one at work; beyond it `put` waits.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Any], None],
        idle: Callable[[], None],
        limit_bytes: int,
        tick_s: float = 0.2,
    ) -> None:
        self.name = name
        self.error: BaseException | None = None
        self._work, self._idle = work, idle
        self._limit_bytes, self._tick_s = limit_bytes, tick_s
        self._items: deque[tuple[Any, int]] = deque()
        self._held_bytes = 0
        self._ending = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def put(self, item: Any, nbytes: int = 0) -> None:
        """Queue it; waits while the stage is full, however long that is. A stage that has failed takes nothing."""
        with self._changed:
            self._changed.wait_for(lambda: not self.full() or self.error is not None)
            if self.error is None:
                self._items.append((item, nbytes))
                self._held_bytes += nbytes
                self._changed.notify_all()

    def full(self) -> bool:
        """More bytes wait than the limit."""
        return self._held_bytes > self._limit_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes that wait now."""
        return self._held_bytes

    def lift_limit(self) -> None:
        """`put` waits no more: the agent is ending, and little is to come."""
        with self._changed:
            self._limit_bytes = sys.maxsize
            self._changed.notify_all()

    def finish(self, timeout_s: float, *, drop: bool = False) -> bool:
        """Work on the queued items, or `drop` them, then end; whether it has ended well, in time."""
        with self._changed:
            if drop:
                self._items.clear()
            self._ending = True
            self._changed.notify_all()
        self._thread.join(max(timeout_s, 0.0))
        return not self._thread.is_alive() and self.error is None

    @property
    def alive(self) -> bool:
        """Whether its thread still works."""
        return self._thread.is_alive()

    def _loop(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:  # handed to the thread that runs the agent
            with self._changed:
                self.error = error
                self._changed.notify_all()

    def _turn(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ending, self._tick_s)
            entry = self._items.popleft() if self._items else None
            if entry is None and self._ending:
                return False
        if entry is None:
            self._idle()
            return True
        self._work(entry[0])
        with self._changed:
            self._held_bytes -= entry[1]
            self._changed.notify_all()
        return True


class StageThreads:
    """The threads of an agent, in the order of the data; or none, where stages are called directly."""

    def __init__(self, threaded: bool, limit_bytes: int) -> None:
        self._threaded, self._limit_bytes = threaded, limit_bytes
        self._stages: list[ThreadedStage] = []

    def before_all(self, name: str, work: Callable[[Any], None], idle: Callable[[], None]) -> NextStage:
        """Add a stage before the existing ones: stages are built from the last to the first."""
        if not self._threaded:
            return DirectStage(work)
        self._stages.insert(0, ThreadedStage(name, work, idle, self._limit_bytes))
        return self._stages[0]

    @property
    def held_bytes(self) -> int:
        """Bytes that wait between all stages."""
        return sum(stage.held_bytes for stage in self._stages)

    def start(self) -> None:
        """All begin to work."""
        for stage in self._stages:
            stage.start()

    def raise_failure(self) -> None:
        """Raise the error that ended a stage, if one has ended so."""
        for stage in self._stages:
            if stage.error is not None:
                raise stage.error

    def finish(self, timeout_s: float, after_first: Callable[[], None], *, drop: bool = False) -> list[str]:
        """End all within `timeout_s`, each after the items of the one before; names of those that are late.

        Args:
            after_first: called when the first has ended well; where it has not, nobody may touch its state.
            drop: the first leaves what waits for it.
        """
        deadline_s = time.monotonic() + timeout_s
        for stage in self._stages:
            stage.lift_limit()
        for i, stage in enumerate(self._stages):
            if stage.finish(deadline_s - time.monotonic(), drop=drop and i == 0) and i == 0:
                after_first()
        return [stage.name for stage in self._stages if stage.alive]
