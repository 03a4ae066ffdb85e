"""Between two rooms: a queue bounded in bytes and the thread behind it, or a direct call (replay)."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol


class Pipe(Protocol):
    """One way."""

    def put(self, item: Any, nbytes: int = 0) -> None:
        """Hand an item on."""

    def full(self) -> bool:
        """Whether the next room is behind by more than its limit."""

    def wait_for_room(self, timeout_s: float = 1.0) -> None:
        """Return when it is not full any more, after `timeout_s` at most."""


class DirectStage:
    """The next room works at once, in the caller's thread."""

    def __init__(self, work: Callable[[Any], None]) -> None:
        self._work = work

    def put(self, item: Any, nbytes: int = 0) -> None:
        """Work on it now."""
        self._work(item)

    def full(self) -> bool:
        """Never."""
        return False

    def wait_for_room(self, timeout_s: float = 1.0) -> None:
        """There always is."""


class ThreadedStage:
    """The next room works in a thread of its own.

    Args:
        work: called with each item, in order.
        idle: called when nothing came for `tick_s`.
        limit_bytes: `full()` beyond it; `put` still takes what the caller already holds.
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
        self._limit_bytes = limit_bytes
        self._tick_s = tick_s
        self._queue: queue.Queue[tuple[Any, int] | None] = queue.Queue()
        self._held_bytes = 0
        self._room = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def put(self, item: Any, nbytes: int = 0) -> None:
        """Queue it; never blocks, the caller asks `full()` or `wait_for_room()`."""
        with self._room:
            self._held_bytes += nbytes
        self._queue.put((item, nbytes))

    def full(self) -> bool:
        """More bytes wait than the limit."""
        return self._held_bytes > self._limit_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes that wait now."""
        return self._held_bytes

    def wait_for_room(self, timeout_s: float = 1.0) -> None:
        """Block while full, `timeout_s` at most."""
        with self._room:
            self._room.wait_for(lambda: not self.full() or self.error is not None, timeout_s)

    def finish(self, timeout_s: float) -> bool:
        """Work on what is queued, then end; whether all was worked on in time."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and self.error is None

    def _loop(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:  # handed to the thread that runs the agent
            self.error = error

    def _turn(self) -> bool:
        try:
            entry = self._queue.get(timeout=self._tick_s)
        except queue.Empty:
            self._idle()
            return True
        if entry is None:
            return False
        self._work(entry[0])
        with self._room:
            self._held_bytes -= entry[1]
            self._room.notify_all()
        return True


class StageThreads:
    """The threads of an agent, in the order of the data; or none, where rooms are called directly."""

    def __init__(self, threaded: bool, limit_bytes: int) -> None:
        self._threaded, self._limit_bytes = threaded, limit_bytes
        self._rooms: list[ThreadedStage] = []

    def upstream_of_all(self, name: str, work: Callable[[Any], None], idle: Callable[[], None]) -> Pipe:
        """A room before those that there are: rooms are built from the last to the first."""
        if not self._threaded:
            return DirectStage(work)
        self._rooms.insert(0, ThreadedStage(name, work, idle, self._limit_bytes))
        return self._rooms[0]

    @property
    def held_bytes(self) -> int:
        """Bytes that wait between all rooms."""
        return sum(room.held_bytes for room in self._rooms)

    def start(self) -> None:
        """All begin to work."""
        for room in self._rooms:
            room.start()

    def raise_failure(self) -> None:
        """What ended a room, if one has ended."""
        for room in self._rooms:
            if room.error is not None:
                raise room.error

    def finish(self, timeout_s: float, after_first: Callable[[], None]) -> None:
        """End each when it has worked on what came from the one before.

        `after_first` is called when the first has ended well; where it has not, nobody may touch its state.
        """
        for i, room in enumerate(self._rooms):
            if room.finish(timeout_s) and i == 0:
                after_first()
