"""Atomic writes of files: a crash leaves the old one or the new one, never a half."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tta_agent.core.os_errors import naming


def write_atomic(path: Path, *data: bytes) -> None:
    """Replace a file: temporary file, fsync, rename, fsync of the folder.

    Raises:
        OSError: with the name of the file, which is as it was; nothing else is left behind.
    """
    with open_atomic(path) as file:
        file.writelines(data)


@contextlib.contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of another when the block ends; otherwise as `write_atomic` does."""
    with _draft(path) as draft, draft.open("wb") as file:
        yield file
        file.flush()
        _finish(draft, file.fileno())


def copy_atomic(source: Path, path: Path) -> None:
    """Replace a file by a copy of another, in portions; otherwise as `write_atomic` does."""
    with source.open("rb") as read, open_atomic(path) as file:
        shutil.copyfileobj(read, file, 1 << 20)


def link_or_copy(path: Path, *sources: Path) -> None:
    """Replace a file by a hard link to one of the sources, or else by a copy of the last; all hold the same bytes.

    Raises:
        OSError: as `write_atomic` does.
    """
    for source in sources:
        with contextlib.suppress(OSError):  # another file system, or one without links
            if not (path.exists() and path.samefile(source)):
                with _draft(path) as draft:
                    draft.unlink()
                    os.link(source, draft)
            return
    copy_atomic(sources[-1], path)


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """Name of a file beside the path that takes its place at the end."""
    with naming(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        os.close(handle)
        draft = Path(name)
        try:
            yield draft
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def _finish(draft: Path, handle: int) -> None:
    os.fsync(handle)
    draft.chmod(0o644)  # temp files are private; another process serves these


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Make all files of a folder durable, and their names."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for path in [*(path for path in folder.rglob("*") if path.is_dir()), folder, folder.parent]:
        sync_folder(path)
