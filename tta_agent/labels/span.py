"""A bounded range of entries in the file of the labels: those that count, and behind them the remembered ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tta_agent.core.sqlite import Connection
from tta_agent.labels.store import State

ANSWERS = (0, (1 << 63) - 1)  # numbers of entries with an answer
LABELS = (-(1 << 62), 0)  # of labels whose answer has not come: a flood of them touches no answer
_BOUNDS = "SELECT min(seq), max(seq) + 1 FROM entries WHERE seq >= ? AND seq < ?"
_LIVE = "SELECT min(seq) FROM entries WHERE seq >= ? AND seq < ? AND state = ?"
_FRONT = "SELECT seq, state, seen_s, version FROM entries WHERE seq >= ? AND seq < ? ORDER BY seq"
_MOVE = "UPDATE entries SET seq = seq + ? WHERE seq >= 0 AND state IN ('early', 'orphan')"


class Span:
    """Entries of one kind, numbered in the order in which they came.

    Args:
        bounds: of the numbers, the second exclusive.
        live, over: states of an entry that waits, and of one whose time is up.
        limit: entries that wait at most; beyond them the oldest are over. As many are remembered behind them.
        sizes: entries by state, kept up to date.
        mark: number of the oldest entry that counts, where it is known.
    """

    def __init__(
        self,
        base: Connection,
        bounds: tuple[int, int],
        live: State,
        over: State,
        limit: int,
        sizes: Counter[str],
        mark: int | None = None,
    ) -> None:
        self._base, self._end, self._live, self._over = base, bounds[1], live, over
        self._limit, self._sizes = limit, sizes
        first, following = base.execute(_BOUNDS, bounds).fetchone()
        self._first: int = bounds[0] if first is None else first
        self._next: int = bounds[0] if following is None else following
        found = base.execute(_LIVE, (*bounds, live)).fetchone()[0] if mark is None else mark
        self.mark: int = self._next if found is None else found

    def number(self) -> int:
        """Number of the next entry."""
        self._next += 1
        return self._next - 1

    def expire(self, now_s: float, horizon_s: float) -> list[int | None]:
        """End what is too old or too much, and move the mark over it; the versions of what was ended."""
        ended, versions = [], []
        for seq, state, seen_s, version in self._front(self.mark):
            if now_s - seen_s <= horizon_s and self._sizes[self._live] <= self._limit:
                break
            self.mark = seq + 1
            if state == self._live:
                ended.append((self._over, seq))
                versions.append(version)
                self._sizes[self._live] -= 1
                self._sizes[self._over] += 1
        self._base.executemany("UPDATE entries SET state = ? WHERE seq = ?", ended)
        return versions

    def forget(self, now_s: float, horizon_s: float) -> None:
        """Delete what has stood behind the mark for as long again."""
        edge = self._first
        for seq, state, seen_s, _ in self._front(self._first):
            old = now_s - seen_s > 2 * horizon_s or self.mark - seq > self._limit
            if seq >= self.mark or not old:
                break
            edge = seq + 1
            self._sizes[state] -= 1
        self._base.execute("DELETE FROM entries WHERE seq >= ? AND seq < ?", (self._first, edge))
        self._first = edge

    def _front(self, seq: int) -> Iterator[tuple[int, str, float, int | None]]:
        yield from self._base.execute(_FRONT, (seq, self._end))


def move_labels(base: Connection) -> None:
    """Give labels without an answer their own numbers, in a file that was written before they had some."""
    base.execute(_MOVE, (LABELS[0],))
