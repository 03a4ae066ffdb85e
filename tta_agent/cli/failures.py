"""Failures outside of this program in words: a file, a disk, a database or a broker that refuses.

The one place for what no closer one explains: the message names the setting that leads there, and the fix.
"""

from __future__ import annotations

import errno
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tta_agent.core.errors import ConfigError, TtaError
from tta_agent.core.os_errors import describe
from tta_agent.settings import env
from tta_agent.settings.schema import Settings

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def message(error: BaseException) -> str | None:
    """Message of one to three lines about a failure outside of this program; None where it may be a fault of ours."""
    if isinstance(error, TtaError):
        return str(error)
    try:
        settings = env.load()
    except ConfigError:  # the command needs none of them, or has found it out before
        settings = None
    if isinstance(error, OSError):
        return _of_file(error, settings)
    store = f"TTA_STORE__PATH={settings.store.path}" if settings else "TTA_STORE__PATH"
    if isinstance(error, sqlite3.Error):
        return (
            f"{store}: a database there cannot be used: {error}; check that disk, and who else writes there"
        )
    if type(error).__module__.startswith("kafka."):
        servers = settings.stream.bootstrap_servers if settings else None
        return f"TTA_STREAM__BOOTSTRAP_SERVERS={servers}: {type(error).__name__}: {error}"
    return None


def _of_file(error: OSError, settings: Settings | None) -> str | None:
    if isinstance(error.filename, str | bytes):
        name = error.filename if isinstance(error.filename, str) else error.filename.decode(errors="replace")
        where = _option(Path(name), sys.argv[2:]) or _setting(Path(name), settings)
        return f"{where}: {describe(error, name)}" if where else describe(error, name)
    if error.errno in NO_ROOM:  # a write names no file
        return f"{describe(error)} (TTA_STORE__PATH, and the files and folders of the command line)"
    return None


def _option(path: Path, words: Sequence[str]) -> str | None:
    """Option or argument of the command line whose folder or file this is."""
    before = "argument"
    for word in words:
        option, equals, value = word.partition("=") if word.startswith("--") else (before, "=", word)
        if equals and value and path.absolute().is_relative_to(Path(value).absolute()):
            return option
        before = word if word.startswith("-") else "argument"
    return None


def _setting(path: Path, settings: Settings | None) -> str | None:
    """Assignment of the setting whose folder or file this is, or leads through it; the closest of several."""
    if settings is None:
        return None
    path, places = path.absolute(), dict(_paths(settings))
    near = [name for name, at in places.items() if path.is_relative_to(at) or at.is_relative_to(path)]
    name = max(near, key=lambda name: len(places[name].parts), default="")
    return f"{name}={places[name]}" if name else None


def _paths(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Settings that lead to files or folders."""
    for group, held in settings:
        for name, value in held if hasattr(held, "model_fields_set") else ():
            if isinstance(value, Path):
                yield f"TTA_{group}__{name}".upper(), value.absolute()
    if (versions := settings.store.versions) and "://" not in versions:
        yield "TTA_STORE__VERSIONS", Path(versions).absolute()
