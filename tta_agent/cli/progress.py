"""Progress of long commands where no terminal shows a bar: a line now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

EVERY_S = 10.0


class ProgressLines:
    """Lines such as "tent: 2,000 of 20,000 records (10%), 80 s left": of each task now and then, and at its end.

    Args:
        say: takes a line.
        what: name of the things that are counted.
        every_s: seconds between two lines of a task.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        what: str,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._what, self._every_s, self._clock = say, what, every_s, clock
        self._began: dict[str, tuple[float, int]] = {}  # by task: when it began, and with how many done
        self._next_s: dict[str, float] = {}

    def tick(self, task: str, done: int, total: int) -> None:
        """So many of all are done."""
        now_s = self._clock()
        began_s, first = self._began.setdefault(task, (now_s, done))
        next_s = self._next_s.setdefault(task, began_s + self._every_s)
        if next_s == math.inf or (now_s < next_s and done < total):
            return
        self._next_s[task] = now_s + self._every_s if done < total else math.inf
        told = f"{task}: {done:,} of {total:,} {self._what} ({done / max(total, 1):.0%})"
        gone = done - first
        left = (
            f", {duration((now_s - began_s) / gone * (total - done))} left" if gone and done < total else ""
        )
        self._say(told + left)


def duration(seconds: float) -> str:
    """Seconds for people: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
