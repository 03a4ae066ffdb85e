"""Errors of the operating system in words: the file, the reason, the fix."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

FIXES = {
    errno.EACCES: "give this user the right to it, or name another place",
    errno.EPERM: "give this user the right to it, or name another place",
    errno.EROFS: "it is mounted read-only: name another place",
    errno.ENOSPC: "free space on that disk",
    errno.EDQUOT: "free space, or raise this user's quota",
    errno.EFBIG: "raise this process's limit on the size of files (ulimit -f)",
    errno.ENOENT: "check the path: it was removed, or never made",
    errno.ENOTDIR: "a part of the path is a file: name a folder",
    errno.EEXIST: "a file stands there: name a folder",
    errno.EISDIR: "a folder stands there: name a file",
    errno.EMFILE: "raise this process's limit of open files (ulimit -n)",
    errno.EIO: "check that disk",
}


def describe(error: OSError, path: Path | str | None = None) -> str:
    """Sentence about a file that the operating system refuses, with the fix where one is known.

    Args:
        path: file or folder to name; the one in the error where not given.
    """
    named = path or error.filename
    reason = error.strerror or str(error) or type(error).__name__
    fix = FIXES.get(error.errno or 0)
    return ": ".join(str(part) for part in (named, reason) if part) + (f"; {fix}" if fix else "")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Context whose errors of the operating system name this file: those of a write name none.

    Raises:
        OSError: of the same kind.
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
