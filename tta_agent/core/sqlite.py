"""SQLite files of this program: opened or created in WAL mode, told from others, written in transactions."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tta_agent.core.errors import TtaError

PATIENCE_S = 10.0  # how long a write may wait for other writers
MEMORY = ":memory:"
Connection = sqlite3.Connection


@dataclass(frozen=True, slots=True)
class DatabaseKind:
    """One kind of file: its tables, its mark, and the errors about it.

    Attributes:
        unusable: message about a file, with places for `path` and `error`.
        error: class of every exception that is raised about such a file.
        application: PRAGMA application_id, which tells these files from databases of other programs.
        format: PRAGMA user_version; raised when the tables change.
        tables: SQL statements that create them, separated by semicolons.
        afresh: end of the advice to move a file away, such as "to start a new one".
    """

    unusable: str
    error: type[TtaError]
    application: int
    format: int
    tables: str
    afresh: str

    def open(self, path: Path | str, *pragmas: str) -> Connection:
        """Open a file, creating it, its folder and its tables where they are missing.

        Args:
            path: on a local disk, because WAL mode shares memory between processes; `MEMORY` keeps nothing.
            pragmas: settings of the connection and of a new file, such as "synchronous = NORMAL".

        Raises:
            TtaError: of class `error`; the file is damaged, is something else, or cannot be written.
        """
        with self.explained(path):
            if path != MEMORY:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            base = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False)
            try:
                for pragma in pragmas:
                    base.execute(f"PRAGMA {pragma}")
                _switch_to_wal(base)
                self._create_tables(base)
                self._check(base, path)
            except BaseException:
                base.close()
                raise
            return base

    def open_to_read(self, path: Path) -> contextlib.closing[Connection]:
        """Open a file that another thread or process writes, as a context manager that closes it.

        Raises:
            sqlite3.Error: there is none, or it cannot be read; see `explained`.
        """
        uri = f"{path.absolute().as_uri()}?mode=ro"
        return contextlib.closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE_S))

    @contextlib.contextmanager
    def explained(self, path: Path | str) -> Iterator[None]:
        """Turn errors of SQLite and of the file system into `error` with advice."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            told = self.unusable.format(path=path, error=error)
            raise self.error(f"{told}\n{self._advice(error)}") from error

    def _create_tables(self, base: Connection) -> None:
        """Once, whichever process comes first."""
        with transaction(base):
            if base.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
                for statement in self.tables.split(";"):
                    base.execute(statement)
                base.execute(f"PRAGMA application_id = {self.application}")
                base.execute(f"PRAGMA user_version = {self.format}")

    def _check(self, base: Connection, path: Path | str) -> None:
        if base.execute("PRAGMA application_id").fetchone()[0] != self.application:
            told = f"{path} is a database of another program"
            raise self.error(f"{told}\nchoose another folder (TTA_STORE__PATH)")
        found = base.execute("PRAGMA user_version").fetchone()[0]
        if found != self.format:
            told = f"{path} has format {found}, expected {self.format}"
            raise self.error(f"{told}\nmove it and its -wal and -shm files away {self.afresh}")

    def _advice(self, error: sqlite3.Error | OSError) -> str:
        code = _code(error)
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return f"it is damaged or something else: move it and its -wal and -shm files away {self.afresh}"
        if code == sqlite3.SQLITE_FULL:
            return "free space on the disk, or keep fewer records"
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return "another program holds it: end that program, or copy the file instead of opening it"
        return "check that its folder exists on a local disk, and that this user may write there (TTA_STORE__PATH)"


@contextlib.contextmanager
def transaction(base: Connection, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Write all or nothing; busy (see `is_busy`) when others write for longer than `patience_s`."""
    base.execute(f"PRAGMA busy_timeout = {int(patience_s * 1000)}")
    base.execute("BEGIN IMMEDIATE")
    try:
        yield
        base.execute("COMMIT")
    except BaseException:
        if base.in_transaction:
            base.rollback()
        raise


def is_busy(error: sqlite3.Error) -> bool:
    """Whether an error says only that another process is writing."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: sqlite3.Error | OSError) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF  # without its details


def _switch_to_wal(base: Connection) -> None:
    """SQLite does not wait for other processes in this one step."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            base.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline_s:
                raise
        time.sleep(0.02)
