"""The file behind the labels: answers that wait for one, labels that wait for their answer, and the counts."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from tta_agent.core.errors import CheckpointError

FORMAT = 1  # raised when the tables change
APPLICATION = 0x74746C  # "ttl": tells our files from other programs' databases
PATIENCE_S = 10.0
MEMORY = ":memory:"

# waiting: an answer without a label; early: a label without its answer; the others are remembered for a while, so
# that what is read a second time is known, and a late label is told from one whose answer never came
State: TypeAlias = Literal["waiting", "early", "matched", "expired", "late", "orphan"]

# Entries stand in the order in which they came, so that those over the horizon stand at the front: `mark` is where
# what has not expired begins. The index is on a short digest of the id: it is what a large file spends its time on.
SCHEMA = """
CREATE TABLE entries (seq INTEGER PRIMARY KEY, digest INTEGER NOT NULL, id TEXT NOT NULL, state TEXT NOT NULL,
    time_s REAL NOT NULL, seen_s REAL NOT NULL, version INTEGER, class INTEGER, label INTEGER,
    entity TEXT NOT NULL, tenant TEXT NOT NULL);
CREATE INDEX by_digest ON entries (digest);
CREATE TABLE counts (version INTEGER NOT NULL, name TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (version, name)) WITHOUT ROWID;
CREATE TABLE clock (now_s REAL NOT NULL, mark INTEGER NOT NULL);
INSERT INTO clock VALUES (0, 0);
"""
ALL = -1  # where counts of all versions together stand


@dataclass(slots=True)
class Entry:
    """One inference id.

    Attributes:
        seq: counts up in the order of arrival.
        time_s: of the inference; of the label where only that has come.
        seen_s: the clock when it came.
        version, answer: who answered which class; None where nothing was served, or not yet.
        stored: whether the file has it.
    """

    seq: int
    id: str
    state: State
    time_s: float
    seen_s: float
    version: int | None = None
    answer: int | None = None
    label: int | None = None
    entity: str = ""
    tenant: str = ""
    stored: bool = False


def digest(id: str) -> int:
    """A short number for an id, the same in every process."""
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest(), "big", signed=True)


_COLUMNS = "seq, id, state, time_s, seen_s, version, class, label, entity, tenant, 1"  # the last: `stored`


def find(base: sqlite3.Connection, id: str) -> Entry | None:
    """The entry of an id."""
    rows = base.execute(f"SELECT {_COLUMNS} FROM entries WHERE digest = ?", (digest(id),))
    return next((Entry(*row) for row in rows if row[1] == id), None)


def write(base: sqlite3.Connection, entries: Iterable[Entry]) -> None:
    """Insert what is new, update the others; within a transaction."""
    new, old = [], []
    for e in entries:
        values = (e.state, e.time_s, e.version, e.answer, e.label, e.entity, e.tenant)
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


def open_file(path: Path | str) -> sqlite3.Connection:
    """Open or create; `:memory:` keeps nothing.

    Raises:
        CheckpointError: it is damaged, something else, or cannot be written.
    """
    with explained(path):
        if path != MEMORY:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        base = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False)
        try:
            _prepare(base, path)
        except BaseException:
            base.close()
            raise
        return base


def _prepare(base: sqlite3.Connection, path: Path | str) -> None:
    # what a power cut takes comes again from the stream: offsets are committed later
    for pragma in (
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "cache_size = -65536",
        "wal_autocheckpoint = 8000",
    ):
        base.execute(f"PRAGMA {pragma}")
    with transaction(base):
        if base.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
            for statement in SCHEMA.split(";"):
                base.execute(statement)
            base.execute(f"PRAGMA application_id = {APPLICATION}")
            base.execute(f"PRAGMA user_version = {FORMAT}")
    found = [base.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    if found != [APPLICATION, FORMAT]:
        raise CheckpointError(f"{path} was made by another program or version of tta-agent; {_ADVICE}")


@contextlib.contextmanager
def transaction(base: sqlite3.Connection) -> Iterator[None]:
    """All or nothing."""
    base.execute("BEGIN IMMEDIATE")
    try:
        yield
        base.execute("COMMIT")
    except BaseException:
        if base.in_transaction:
            base.rollback()
        raise


_ADVICE = "move it and its -wal and -shm files away to start with no label waiting"


@contextlib.contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Turn what SQLite and the file system say into a CheckpointError that says what to do."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        damaged = code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
        advice = (
            _ADVICE if damaged else "check the disk, and that this user may write there (TTA_STORE__PATH)"
        )
        raise CheckpointError(f"the labels in {path} cannot be used: {error}; {advice}") from error


def counts_of(base: sqlite3.Connection) -> dict[int, Counter[str]]:
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
    with explained(path):
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE_S)) as base:
            found = counts_of(base)
    return dict(found.pop(ALL)), {version: summary(counts) for version, counts in sorted(found.items())}


def summary(counts: Counter[str]) -> dict[str, float]:
    """One version's counts, and `accuracy`: the share of its matched answers that were right."""
    names = ("answered", "matched", "right", "late", "expired")
    numbers: dict[str, float] = {name: counts[name] for name in names}
    return {**numbers, "accuracy": counts["right"] / counts["matched"]} if counts["matched"] else numbers
