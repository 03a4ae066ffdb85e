"""When a swap may happen at all: not too often, not in a freeze window, not while a roll-back is fresh."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tta_agent.core.errors import ConfigError, nearest

DAY_S, WEEK_S = 86_400, 7 * 86_400
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_POINT = r"(?:(\w{3})\s+)?([01]\d|2[0-3]):([0-5]\d)"
_WINDOW = re.compile(rf"\s*{_POINT}\s*-\s*{_POINT}\s*")


@dataclass(frozen=True, slots=True)
class Freeze:
    """A span of every week, or of every day, in UTC: [start, end) in seconds, wrapping round."""

    text: str
    start_s: int
    end_s: int
    period_s: int

    @classmethod
    def parse(cls, text: str) -> Freeze:
        """`Fri 16:00-Mon 06:00` or `22:00-23:30`.

        Raises:
            ConfigError: anything else.
        """
        found = _WINDOW.fullmatch(text)
        if not found or (found[1] is None) != (found[4] is None):
            raise ConfigError(
                f"TTA_GATE__FREEZE: {text!r} is no window; write 'Fri 16:00-Mon 06:00' or '22:00-23:30' (UTC)"
            )
        ends = [_seconds(*found.groups()[i : i + 3]) for i in (0, 3)]
        return cls(text, ends[0], ends[1], DAY_S if found[1] is None else WEEK_S)

    def holds(self, now_s: float) -> bool:
        """Whether it covers a moment, seconds since the epoch."""
        moment = datetime.fromtimestamp(now_s, UTC)
        of_day = moment.hour * 3600 + moment.minute * 60 + moment.second
        at = (moment.weekday() * DAY_S + of_day) % self.period_s
        return (at - self.start_s) % self.period_s < (self.end_s - self.start_s) % self.period_s


def _seconds(day: str | None, hour: str, minute: str) -> int:
    if day is not None and day.capitalize() not in DAYS:
        raise ConfigError(f"TTA_GATE__FREEZE: no day {day!r}; {nearest(day, DAYS)}")
    return (DAYS.index(day.capitalize()) * DAY_S if day else 0) + int(hour) * 3600 + int(minute) * 60


class RolloutLimits:
    """How often versions may follow each other. Times are seconds since the epoch, as the caller counts them.

    Args:
        min_interval_s: least time between two swaps.
        per_day: most swaps in any 24 hours.
        freeze: windows without swaps, as text.
        cooldown_s: no candidate for so long after a roll-back; doubled by each further one up to
            `cooldown_most_s`, until a version has settled. A stream that alternates between two worlds thus costs
            ever fewer swaps instead of one at each change.

    Raises:
        ConfigError: a window that cannot be read.
    """

    def __init__(
        self,
        *,
        min_interval_s: float = 0.0,
        per_day: int = 1_000_000,
        freeze: Sequence[str] = (),
        cooldown_s: float = 60.0,
        cooldown_most_s: float = DAY_S,
    ) -> None:
        self._min_interval_s, self._per_day = min_interval_s, per_day
        self._freeze = [Freeze.parse(text) for text in freeze]
        self._cooldown_s, self._most_s = cooldown_s, cooldown_most_s
        self._swaps: deque[float] = deque()
        self._cool_until_s = 0.0
        self._trips = 0

    def forbids(self, now_s: float) -> str | None:
        """Why no swap may happen now, for people; None: it may."""
        while self._swaps and now_s - self._swaps[0] >= DAY_S:
            self._swaps.popleft()
        if window := self.frozen(now_s):
            return f"frozen: {window} UTC"
        if self._swaps and now_s - self._swaps[-1] < self._min_interval_s:
            return f"the last swap is {now_s - self._swaps[-1]:.0f} s ago, of {self._min_interval_s:.0f} s at least"
        if len(self._swaps) >= self._per_day:
            return f"{len(self._swaps)} swaps within 24 hours, the most that may be"
        return None

    def frozen(self, now_s: float) -> str | None:
        """The window without swaps that holds now, or None."""
        return next((freeze.text for freeze in self._freeze if freeze.holds(now_s)), None)

    def swapped(self, now_s: float) -> None:
        """A version has come into service."""
        self._swaps.append(now_s)

    def cools(self, now_s: float) -> bool:
        """Whether a roll-back is too fresh for a new candidate."""
        return now_s < self._cool_until_s

    def trip(self, now_s: float) -> float:
        """A version was taken back: seconds until the next candidate."""
        wait_s = min(self._cooldown_s * 2.0**self._trips, self._most_s)
        self._trips += 1
        self._cool_until_s = now_s + wait_s
        return wait_s

    def settled(self) -> None:
        """A version has lasted: the next cool-down is a short one again."""
        self._trips = 0

    def state_dict(self) -> dict[str, Any]:
        """Swaps, roll-backs and the running cool-down."""
        return {"swaps": list(self._swaps), "cool_until_s": self._cool_until_s, "trips": self._trips}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._swaps = deque(state["swaps"])
        self._cool_until_s, self._trips = state["cool_until_s"], state["trips"]
