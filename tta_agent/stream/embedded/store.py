"""File of the embedded log: one SQLite database in WAL mode, shared by processes of one machine.

Each partition has a number of its own for good, its slot; rows.py says how records are numbered.
"""

from __future__ import annotations

from pathlib import Path

from tta_agent.core.errors import StreamError
from tta_agent.core.sqlite import Connection, DatabaseKind, transaction
from tta_agent.core.types import Partition

DEFAULT_PARTITIONS = 4
IDENTITY = "\x00identity"  # stands among the generations of the groups, as logs of before have no other place

TABLES = """
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
FILE = DatabaseKind(
    unusable="the embedded log {path} cannot be used: {error}", error=StreamError,
    application=0x747461, format=1, tables=TABLES,
    afresh="to start a new one",
)  # fmt: skip


def open_log(path: Path, *, durable: bool) -> Connection:
    """Open the log, creating it where there is none.

    Args:
        path: the file, on a local disk.
        durable: commits of this connection survive a power cut, not only the end of the process.

    Raises:
        StreamError: the file is damaged, is something else, or cannot be written.
    """
    synchronous = f"synchronous = {'FULL' if durable else 'NORMAL'}"
    log = FILE.open(path, "page_size = 16384", "journal_size_limit = 67108864", synchronous)
    with FILE.explained(path), transaction(log):
        log.execute("INSERT OR IGNORE INTO generations VALUES (?, abs(random()))", (IDENTITY,))
    return log


def identity(log: Connection) -> str:
    """A name of this log: one that replaces it has another."""
    return str(log.execute("SELECT generation FROM generations WHERE grp = ?", (IDENTITY,)).fetchone()[0])


def create_topic(log: Connection, topic: str, partitions: int) -> dict[Partition, int]:
    """Slots of a topic, which is created where it is new; call it within a transaction."""
    query = "SELECT number, slot FROM partitions WHERE topic = ? ORDER BY number"
    rows = log.execute(query, (topic,)).fetchall()
    if not rows:
        new = [(topic, number) for number in range(partitions)]
        log.executemany("INSERT INTO partitions (topic, number) VALUES (?, ?)", new)
        rows = log.execute(query, (topic,)).fetchall()
    return {(topic, number): slot for number, slot in rows}
