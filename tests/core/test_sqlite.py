"""SQLite files: created once, refused where they are another program's or of another format, all or nothing."""

import contextlib
import sqlite3
import threading

import pytest

from tta_agent.core.sqlite import transaction
from tta_agent.labels import store as labels
from tta_agent.stream.embedded import store as log

KINDS = [pytest.param(kind, id=kind.error.__name__) for kind in (labels.FILE, log.FILE)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_format_is_refused_and_left_as_it_was(kind, tmp_path):
    path = tmp_path / "folder" / "file.db"
    kind.open(path).close()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 7")
    with pytest.raises(kind.error) as error:
        kind.open(path)
    assert str(error.value) == (
        f"{path} has format 7, expected 1\nmove it and its -wal and -shm files away {kind.afresh}"
    )
    with contextlib.closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (7,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_database_of_another_program_is_refused(kind, tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "theirs.db")) as other:
        other.execute("CREATE TABLE theirs (x)")
    with pytest.raises(kind.error, match="another program\nchoose another folder"):
        kind.open(tmp_path / "theirs.db")


def test_opening_waits_for_another_process_that_writes(tmp_path):
    path = tmp_path / "log.db"
    with contextlib.closing(log.FILE.open(path)) as base:
        base.execute("PRAGMA journal_mode = DELETE")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.3, other.execute, ["COMMIT"])
        release.start()
        log.FILE.open(path).close()
        release.join()


def test_a_transaction_that_fails_leaves_nothing(tmp_path):
    with contextlib.closing(log.FILE.open(tmp_path / "log.db")) as base:
        with pytest.raises(KeyError), transaction(base):
            log.create_topic(base, "t", 2)
            raise KeyError
        assert base.execute("SELECT count(*) FROM partitions").fetchone() == (0,)
        with transaction(base):
            log.create_topic(base, "t", 2)
        with log.FILE.open_to_read(tmp_path / "log.db") as reader:
            assert reader.execute("SELECT count(*) FROM partitions").fetchone() == (2,)
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                reader.execute("DELETE FROM partitions")
