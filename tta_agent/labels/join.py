"""Late labels joined to the answers that were served, by inference id."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tta_agent.core.sqlite import MEMORY, Connection, transaction
from tta_agent.core.task import answer
from tta_agent.core.types import Answer, Label, Record
from tta_agent.labels.span import ANSWERS, LABELS, Span, move_labels
from tta_agent.labels.store import ALL, FILE, Entry, State, counts_of, find, open_file, write

HORIZON_RECORDS = 1_000_000  # inferences that wait for a label; beyond them the oldest expire
UNKNOWN_LABELS = 100_000  # that wait for their inference: few come before it, however many come
VERSIONS = 100  # whose counts are kept, beside those of the source
FLUSH_EVERY = 2000  # entries held in memory between two transactions
_SIZES = "SELECT state, count(*) FROM entries GROUP BY state"
_COUNT = "INSERT OR REPLACE INTO counts VALUES (?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One served answer, correct or not; `accuracy` of its version so far. `late`: counted, but not to be used."""

    version: int
    correct: bool
    accuracy: float
    late: bool = False


class LabelJoiner:
    """Join of served answers and late labels by inference id, in one SQLite file.

    Counts: `answered`; `matched` labels, `right` ones among them; `expired` answers, whose label did not come within
    the horizon, and `late` labels, which came after it; `orphan` labels, whose answer never came. The same record or
    label a second time changes nothing. Time is the records' own: a recording may be played faster than it was made.
    Labels without an answer have a bounded place of their own: however many come, no answer expires early.

    What is held in memory is lost by a crash and comes again from the stream, as offsets are committed after
    `flush`. One thread uses it; others read the file by `store.read_counts`.

    Args:
        path: the file, or `:memory:`.
        horizon_s: seconds after its inference within which a label counts.
        horizon_records: answers that wait at most; the oldest expire, when the next are written.
        unknown_labels: labels that wait for their answer, likewise; never more than `horizon_records`.
        clock: seconds since the epoch, as the stream counts them.

    Raises:
        CheckpointError: the file is damaged or cannot be written.
    """

    def __init__(
        self,
        path: Path | str = MEMORY,
        *,
        horizon_s: float = math.inf,
        horizon_records: int = HORIZON_RECORDS,
        unknown_labels: int = UNKNOWN_LABELS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._path, self._horizon_s = path, horizon_s
        self._base: Connection = open_file(path)
        with FILE.explained(path):
            self._counts = counts_of(self._base)
            move_labels(self._base)
            sizes = self._sizes = Counter(dict(self._base.execute(_SIZES).fetchall()))  # entries by state
            self._now_s, mark = self._base.execute("SELECT now_s, mark FROM clock").fetchone()
            self._answers = Span(self._base, ANSWERS, "waiting", "expired", horizon_records, sizes, mark)
            few = min(unknown_labels, horizon_records)
            self._labels = Span(self._base, LABELS, "early", "orphan", few, sizes)
        self._dirty: dict[str, Entry] = {}
        self._looked_up: dict[str, Entry | None] = {}  # entries of the file for the ids that come next
        self._gone: list[tuple[int]] = []  # numbers of labels whose answer has come
        self._changed: set[int] = set()

    @property
    def counts(self) -> Counter[str]:
        """Counts over all versions by name."""
        return self._counts[ALL]

    def look_up(self, ids: Iterable[str]) -> None:
        """Read the entries of the ids that come next, all at once: a query for each costs as much as all the rest."""
        self._make_room()
        with FILE.explained(self._path):
            self._looked_up = find(self._base, [id for id in dict.fromkeys(ids) if id not in self._dirty])

    def expect(self, record: Record) -> Label | None:
        """Remember the served answer of a record; its label, where that came first."""
        self._make_room()
        self._tick(record.time_s)
        known = self._find(record.id)
        if known is None or known.state in ("early", "orphan"):
            self._answered(record, known)
        if known is None or known.label is None or known.state == "late":
            return None
        # also for a record that comes again: who takes the label may have forgotten it in the crash
        return Label(record.id, known.label, known.time_s)

    def _answered(self, record: Record, known: Entry | None) -> None:
        given: Answer | None = None if record.version is None else record.named
        if record.served is not None and record.version is not None:
            given = answer(record.served)
        version = None if given is None else record.version
        entry = self._new(self._answers, record.id, "waiting", record.time_s)
        if known is not None:  # its label came first
            self._sizes[known.state] -= 1
            entry.label = known.label
            self._gone.append((known.seq,))
        entry.version, entry.answer, entry.entity, entry.tenant = version, given, record.key, record.tenant
        self._enter(entry)
        self._count("answered", version)

    def _new(self, span: Span, id: str, state: State, time_s: float) -> Entry:
        return Entry(span.number(), id, state, time_s, self._now_s)

    def arrive(self, label: Label) -> Outcome | None:
        """Outcome of the served answer by its label.

        None where the record has not come (yet), where nothing was served, and for a label that comes again. An
        outcome that is `late` comes again whenever its label does, so that nobody takes the label for a new one.
        """
        self._make_room()
        entry = self._find(label.id)
        if entry is None:
            entry = self._new(self._labels, label.id, "early", label.time_s)
            entry.label = label.label
            self._enter(entry)
        elif entry.state in ("waiting", "expired"):
            return self._join(entry, label)
        elif entry.state == "late":
            return self._outcome(entry, label.label)
        return None

    def _join(self, entry: Entry, label: Label) -> Outcome | None:
        age_s = max(self._now_s, label.time_s) - entry.time_s
        if entry.state == "waiting" and age_s > self._horizon_s:
            self._settle(entry, "expired")
        entry.label = label.label
        self._settle(entry, "late" if entry.state == "expired" else "matched")
        if entry.state == "matched" and entry.answer == label.label:
            self._count("right", entry.version)
        return self._outcome(entry, label.label)

    def _outcome(self, entry: Entry, label: Answer) -> Outcome | None:
        late = entry.state == "late"
        if entry.version is None:
            return Outcome(ALL, False, 0.0, late) if late else None
        counts = self._counts.get(entry.version, Counter())
        return Outcome(
            entry.version, entry.answer == label, counts["right"] / max(counts["matched"], 1), late
        )

    def _settle(self, entry: Entry, state: State) -> None:
        self._sizes[entry.state] -= 1
        entry.state = state
        self._count(state, entry.version)
        self._enter(entry)

    def _count(self, name: str, version: int | None, by: int = 1) -> None:
        for key in (ALL,) if version is None else (ALL, version):
            self._counts.setdefault(key, Counter())[name] += by
            self._changed.add(key)

    def _tick(self, time_s: float) -> None:
        """A record with a date in the future must not let all others expire."""
        self._now_s = max(self._now_s, min(time_s, self._clock()))

    def _find(self, id: str) -> Entry | None:
        if id in self._dirty:
            return self._dirty[id]
        if id in self._looked_up:
            return self._looked_up.pop(id)
        with FILE.explained(self._path):
            return find(self._base, [id])[id]

    def _enter(self, entry: Entry) -> None:
        self._sizes[entry.state] += 1
        self._dirty[entry.id] = entry

    def _make_room(self) -> None:
        # between two calls, not within one: what expires while an entry is in hand would be written back
        if len(self._dirty) >= FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Write what is in memory, and let expire what is over; called before each checkpoint.

        Raises:
            CheckpointError: the file cannot be written.
        """
        with FILE.explained(self._path), transaction(self._base):
            self._base.executemany("DELETE FROM entries WHERE seq = ?", self._gone)
            write(self._base, self._dirty.values())
            self._expire()
            self._write_counts()
            self._base.execute("UPDATE clock SET now_s = ?, mark = ?", (self._now_s, self._answers.mark))
        self._dirty.clear()
        self._looked_up.clear()
        self._gone.clear()
        self._changed.clear()

    def _expire(self) -> None:
        for span, name in ((self._answers, "expired"), (self._labels, "orphan")):
            for version in span.expire(self._now_s, self._horizon_s):
                self._count(name, version)
            span.forget(self._now_s, self._horizon_s)

    def _write_counts(self) -> None:
        for version in sorted(self._counts.keys() - {ALL, 0})[:-VERSIONS]:
            del self._counts[version]
            self._base.execute("DELETE FROM counts WHERE version = ?", (version,))
        for version in self._changed & self._counts.keys():
            rows = [(version, name, count) for name, count in self._counts[version].items()]
            self._base.executemany(_COUNT, rows)

    def close(self) -> None:
        """Flush and free."""
        self.flush()
        self._base.close()
