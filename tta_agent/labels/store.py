"""SQLite file of the label join: answers without a label, labels without an answer, and counts."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from tta_agent.core.errors import CheckpointError
from tta_agent.core.sqlite import Connection, DatabaseKind
from tta_agent.core.task import from_json, to_json
from tta_agent.core.types import Answer

# waiting: an answer without a label; early: a label without its answer; the others are remembered for a while, so
# that what is read a second time is known, and a late label is told from one whose answer never came
State: TypeAlias = Literal["waiting", "early", "matched", "expired", "late", "orphan"]

# Entries stand in the order in which they came, so that those over the horizon stand at the front: `mark` is where
# what has not expired begins. The index is on a short digest of the id: it is what a large file spends its time on.
# A class is a number, a set of labels JSON text.
TABLES = """
CREATE TABLE entries (seq INTEGER PRIMARY KEY, digest INTEGER NOT NULL, id TEXT NOT NULL, state TEXT NOT NULL,
    time_s REAL NOT NULL, seen_s REAL NOT NULL, version INTEGER, class INTEGER, label INTEGER,
    entity TEXT NOT NULL, tenant TEXT NOT NULL);
CREATE INDEX by_digest ON entries (digest);
CREATE TABLE counts (version INTEGER NOT NULL, name TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (version, name)) WITHOUT ROWID;
CREATE TABLE clock (now_s REAL NOT NULL, mark INTEGER NOT NULL);
INSERT INTO clock VALUES (0, 0);
"""
FILE = DatabaseKind(
    unusable="the label store {path} cannot be used: {error}", error=CheckpointError,
    application=0x74746C, format=1, tables=TABLES,
    afresh="to start with no label waiting",
)  # fmt: skip
ALL = -1  # where counts of all versions together stand
TOGETHER = 500  # ids of one query


@dataclass(slots=True)
class Entry:
    """State of one inference id.

    Attributes:
        seq: counts up in the order of arrival.
        time_s: of the inference; of the label where only that has come.
        seen_s: the joiner's clock at its arrival.
        version, answer: the version that answered and its answer; None where nothing was served, or not yet.
        stored: whether the file has it.
    """

    seq: int
    id: str
    state: State
    time_s: float
    seen_s: float
    version: int | None = None
    answer: Answer | None = None
    label: Answer | None = None
    entity: str = ""
    tenant: str = ""
    stored: bool = False


def digest(id: str) -> int:
    """A short number for an id, the same in every process."""
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest(), "big", signed=True)


_COLUMNS = "seq, id, state, time_s, seen_s, version, class, label, entity, tenant, 1"  # the last: `stored`


def find(base: Connection, ids: Sequence[str]) -> dict[str, Entry | None]:
    """The entries of ids, None for those that have none."""
    found: dict[str, Entry | None] = dict.fromkeys(ids)
    for start in range(0, len(ids), TOGETHER):
        digests = [digest(id) for id in ids[start : start + TOGETHER]]
        places = ",".join("?" * len(digests))
        for row in base.execute(f"SELECT {_COLUMNS} FROM entries WHERE digest IN ({places})", digests):
            entry = Entry(*row)
            entry.answer, entry.label = _read(entry.answer), _read(entry.label)
            if entry.id in found:  # another id may have the same digest
                found[entry.id] = entry
    return found


def write(base: Connection, entries: Iterable[Entry]) -> None:
    """Insert what is new, update the others; within a transaction."""
    new, old = [], []
    for e in entries:
        values = (e.state, e.time_s, e.version, _column(e.answer), _column(e.label), e.entity, e.tenant)
        if e.stored:
            old.append((*values, e.seq))
        else:
            new.append((e.seq, digest(e.id), e.id, e.seen_s, *values))
    base.executemany(
        "INSERT INTO entries (seq, digest, id, seen_s, state, time_s, version, class, label, entity, tenant)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        new,
    )
    base.executemany(
        "UPDATE entries SET state = ?, time_s = ?, version = ?, class = ?, label = ?, entity = ?, tenant = ?"
        " WHERE seq = ?",
        old,
    )


def _column(given: Answer | None) -> int | str | None:
    return json.dumps(to_json(given)) if isinstance(given, tuple) else given


def _read(column: object) -> Answer | None:
    return from_json(json.loads(column)) if isinstance(column, str) else column  # type: ignore[return-value]


def open_file(path: Path | str) -> Connection:
    """Open or create the file of a joiner; `MEMORY` keeps nothing.

    Raises:
        CheckpointError: it is damaged, something else, or cannot be written.
    """
    # what a power cut takes comes again from the stream: offsets are committed later
    return FILE.open(path, "synchronous = NORMAL", "cache_size = -8192", "wal_autocheckpoint = 8000")


def counts_of(base: Connection) -> dict[int, Counter[str]]:
    """Counts by version; `ALL` holds those of all together."""
    found: dict[int, Counter[str]] = {ALL: Counter()}
    for version, name, count in base.execute("SELECT version, name, count FROM counts"):
        found.setdefault(version, Counter())[name] = count
    return found


def read_counts(path: Path) -> tuple[dict[str, int], dict[int, dict[str, float]]]:
    """Counts in all and by version, from a file that another thread or process writes; empty where there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    if not path.exists():
        return {}, {}
    with FILE.explained(path), FILE.open_to_read(path) as base:
        found = counts_of(base)
    return dict(found.pop(ALL)), {version: summary(counts) for version, counts in sorted(found.items())}


def summary(counts: Counter[str]) -> dict[str, float]:
    """One version's counts, and `accuracy`: the share of its matched answers that were right."""
    names = ("answered", "matched", "right", "late", "expired")
    numbers: dict[str, float] = {name: counts[name] for name in names}
    return {**numbers, "accuracy": counts["right"] / counts["matched"]} if counts["matched"] else numbers
