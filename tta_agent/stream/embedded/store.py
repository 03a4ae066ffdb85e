"""The file behind the embedded log: one SQLite database in WAL mode, shared by processes of one machine.

Each partition has a number of its own for good, its slot; rows.py says how records are numbered.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from tta_agent.core.errors import StreamError
from tta_agent.core.types import Partition

DEFAULT_PARTITIONS = 4
PATIENCE_S = 10.0  # how long a write may wait for other writers
FORMAT = 1  # raised when the tables change
APPLICATION = 0x747461  # "tta": tells our files from other programs' databases

SCHEMA = """
CREATE TABLE partitions (slot INTEGER PRIMARY KEY, topic TEXT NOT NULL, number INTEGER NOT NULL,
    first_offset INTEGER NOT NULL DEFAULT 0, next_offset INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0, UNIQUE (topic, number));
CREATE TABLE records (id INTEGER PRIMARY KEY, timestamp_ms INTEGER NOT NULL, headers TEXT NOT NULL,
    key BLOB, value BLOB);
CREATE TABLE generations (grp TEXT PRIMARY KEY, generation INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE members (number INTEGER PRIMARY KEY AUTOINCREMENT, grp TEXT NOT NULL, topic TEXT NOT NULL,
    member TEXT NOT NULL, seen_s REAL NOT NULL, UNIQUE (member, topic));
CREATE TABLE owners (grp TEXT NOT NULL, slot INTEGER NOT NULL, member TEXT NOT NULL,
    PRIMARY KEY (grp, slot)) WITHOUT ROWID;
CREATE TABLE commits (grp TEXT NOT NULL, slot INTEGER NOT NULL, position INTEGER NOT NULL,
    PRIMARY KEY (grp, slot)) WITHOUT ROWID;
"""


def open_log(path: Path, *, durable: bool) -> sqlite3.Connection:
    """Open the log, creating it where there is none.

    Args:
        path: the file; it must be on a local disk, because WAL mode shares memory between processes.
        durable: commits of this connection survive a power cut, not only the end of the process.

    Raises:
        StreamError: the file is damaged, is something else, or cannot be written.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        log = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False)
        try:
            _prepare(log, path)
        except BaseException:
            log.close()
            raise
        log.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        log.execute("PRAGMA journal_size_limit = 67108864")
        return log


def _prepare(log: sqlite3.Connection, path: Path) -> None:
    """Switch to WAL mode and make the tables, unless another process has done so."""
    log.execute("PRAGMA page_size = 16384")
    _switch_to_wal(log)
    with transaction(log):
        if log.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
            for statement in SCHEMA.split(";"):
                log.execute(statement)
            log.execute(f"PRAGMA application_id = {APPLICATION}")
            log.execute(f"PRAGMA user_version = {FORMAT}")
    if log.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
        raise StreamError(f"{path} is a database of another program\ngive the embedded log a file of its own")
    version = log.execute("PRAGMA user_version").fetchone()[0]
    if version != FORMAT:
        raise StreamError(f"{path} has format {version}, expected {FORMAT}\nmove it away to start a new log")


def _switch_to_wal(log: sqlite3.Connection) -> None:
    """SQLite does not wait for others in this one step, so we do."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            log.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline_s:
                raise
        time.sleep(0.02)


@contextlib.contextmanager
def transaction(log: sqlite3.Connection, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """One write, all or nothing; busy (see is_busy) when others write for longer than `patience_s`."""
    log.execute(f"PRAGMA busy_timeout = {int(patience_s * 1000)}")
    log.execute("BEGIN IMMEDIATE")
    try:
        yield
        log.execute("COMMIT")
    except BaseException:
        if log.in_transaction:
            log.rollback()
        raise


def create_topic(log: sqlite3.Connection, topic: str, partitions: int) -> dict[Partition, int]:
    """The slots of a topic, made first where the topic is new; within a transaction."""
    query = "SELECT number, slot FROM partitions WHERE topic = ? ORDER BY number"
    rows = log.execute(query, (topic,)).fetchall()
    if not rows:
        new = [(topic, number) for number in range(partitions)]
        log.executemany("INSERT INTO partitions (topic, number) VALUES (?, ?)", new)
        rows = log.execute(query, (topic,)).fetchall()
    return {(topic, number): slot for number, slot in rows}


def is_busy(error: sqlite3.Error) -> bool:
    """Whether it is only that another process is writing; the low byte is the code without its details."""
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system say into a StreamError that says what to do."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StreamError(f"the embedded log {path} cannot be used: {error}\n{_advice(error)}") from error


def _advice(error: sqlite3.Error | OSError) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return "it is damaged or no log: move it and its -wal and -shm files away to start a new one"
    if code == sqlite3.SQLITE_FULL:
        return "free space on the disk, or keep fewer records"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "another program holds it: end that program, or copy the file instead of opening it"
    return "check that its folder exists on a local disk, and that this user may write there"
