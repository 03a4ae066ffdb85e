"""Forecast of a rehearsal's time, from its first scenarios on this model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from tta_agent.cli.progress import duration

IN_A_GROUP = 9  # scenarios, about
SURE = 2  # scenarios of each process: the first of a group draws the images and answers them, too


class Forecast:
    """Seconds until all groups are played, told once after the first scenarios, and with each group.

    Args:
        groups: that are left.
        workers: processes; 0 for this one.
        seconds: no group is begun after this.
        clock: monotonic seconds.
    """

    def __init__(
        self, groups: int, workers: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._groups, self._at_once, self._budget_s, self._clock = groups, max(workers, 1), seconds, clock
        self._seconds: list[float] = []
        self._finished = 0
        self._began_s = clock()

    def scenario(self, seconds: float) -> str | None:
        """What to tell after a scenario that took so many seconds: once, a forecast for all groups."""
        self._seconds.append(seconds)
        if len(self._seconds) != SURE * self._at_once:
            return None
        each_s = sum(self._seconds) / len(self._seconds)
        whole_s = each_s * IN_A_GROUP * math.ceil(self._groups / self._at_once)
        told = (
            f"a scenario takes {each_s:.1f} s on this model: all {self._groups} groups that are left take about "
            f"{duration(whole_s)} with {self._at_once} process{'es' if self._at_once > 1 else ''}"
        )
        if whole_s <= self._budget_s:
            return told
        fits = math.ceil(self._budget_s / (each_s * IN_A_GROUP)) * self._at_once
        return (
            f"{told}; --budget-minutes {self._budget_s / 60:g} plays about {min(fits, self._groups)} of them"
        )

    def group(self) -> str:
        """What to add when a group has finished: the time that is left for the others."""
        self._finished += 1
        left = self._groups - self._finished
        if left <= 0:
            return ""
        left_s = (self._clock() - self._began_s) / self._finished * left
        return f"; all of them in {duration(left_s)}"


def budget(missing: int, played: int, seconds: float, workers: int) -> str:
    """The option that plays so many more scenarios, by the seconds that those so far took in one process."""
    if not played:
        return "a larger --budget-minutes"
    needed_s = seconds / played * (missing + IN_A_GROUP) / max(workers, 1)  # groups are not cut
    return f"--budget-minutes {max(math.ceil(1.2 * needed_s / 60), 1)} or more (by the {played} so far)"
