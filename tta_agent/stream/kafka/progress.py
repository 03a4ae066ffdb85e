"""Watch over partitions that have records and deliver none."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

STALLED_S = 60.0
Place = TypeVar("Place", bound=Hashable)


class Progress:
    """Positions that do not go on although there are records after them.

    Args:
        stalled_s: how long that may last while the partition is not paused.
    """

    def __init__(self, stalled_s: float = STALLED_S) -> None:
        self._stalled_s = stalled_s
        self._since: dict[
            Hashable, tuple[int, float]
        ] = {}  # position, and when it was first seen with records after

    def stalled(
        self, positions: Mapping[Place, int], ends: Mapping[Place, int], now_s: float, *, paused: bool
    ) -> list[Place]:
        """Partitions that have stood for too long; each again only after as long.

        Args:
            positions: the next offset to read, of the partitions that are ours.
            ends: the next offset to be written.
            paused: nothing is to be delivered now.
        """
        behind = {} if paused else {p: n for p, n in positions.items() if ends.get(p, 0) > n}
        same = {p: self._since[p] for p, n in behind.items() if p in self._since and self._since[p][0] == n}
        found = [p for p, (_, since_s) in same.items() if now_s - since_s >= self._stalled_s]
        self._since = {p: same[p] if p in same and p not in found else (n, now_s) for p, n in behind.items()}
        return found
