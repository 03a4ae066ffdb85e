"""Storage of a registry: a local folder, shared by processes, or any fsspec store, with one writer.

    000003/...       files of version 3, which exists once its `manifest.json` does
    aliases.json     and other small files beside

On a local folder a version appears by the rename of a finished folder and writers wait for each other (flock). An
object store knows neither, so that `manifest.json` is written last, and one writer is assumed: the agent. Commands
that move aliases while it runs are safe one at a time; of two at the same moment the later one wins.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from tta_agent.core.atomic_files import copy_atomic, link_or_copy, sync_folder, write_atomic
from tta_agent.core.errors import StoreError
from tta_agent.core.os_errors import describe
from tta_agent.registry.cache import digest_of

MANIFEST = "manifest.json"
LEFT_OVER_S = 3600.0  # a staging folder older than this is of a crash


class Storage(Protocol):
    """Store of named blobs. Names are relative, with "/"."""

    where: str

    def read(self, name: str) -> bytes:
        """Bytes of a blob. Raises FileNotFoundError where there is none."""

    def exists(self, name: str) -> bool:
        """Whether the blob exists."""

    def write(self, name: str, data: bytes) -> None:
        """Replace a blob whole; durable when this returns."""

    def add(self, number: int, files: Mapping[str, bytes | Path]) -> None:
        """Add a version, all of it or nothing; of large files the paths, which are copied."""

    def copy(self, name: str, path: Path) -> None:
        """Copy a blob into a local file, in portions. Raises FileNotFoundError where there is none."""

    def digest(self, name: str) -> str:
        """SHA-256 of a blob, read in portions. Raises FileNotFoundError where there is none."""

    def numbers(self) -> list[int]:
        """Numbers of the versions that exist, ascending."""

    def remove(self, name: str) -> None:
        """Remove a blob, if it exists."""

    def remove_version(self, number: int) -> None:
        """Remove all files of a version."""

    def path(self, name: str) -> Path | None:
        """Local file of a blob; None in a far store."""

    def glance(self) -> AbstractContextManager[None]:
        """Context of many reads, which a far store may answer from one listing."""

    def lock(self) -> AbstractContextManager[None]:
        """Context of one writer at a time, with a glance as well. Not reentrant."""

    def sweep(self) -> None:
        """Remove half-written leftovers of crashes."""


def open_storage(where: str | Path | Storage) -> Storage:
    """Open a storage: a folder for paths and file:// URLs, else the store of the URL.

    Raises:
        RegistryError: the folder cannot be made, or nothing installed knows the URL.
    """
    if isinstance(where, Path):
        return Folder(where)
    if not isinstance(where, str):
        return where
    if "://" not in where or where.startswith(("file://", "local://")):
        return Folder(Path(where.split("://", 1)[-1]), "TTA_STORE__VERSIONS")
    from tta_agent.registry.storage_fsspec import Store

    return Store(where)


def home(number: int) -> str:
    """Name of a version's folder."""
    return f"{number:06d}"


class Folder:
    """Storage in a local folder.

    Args:
        setting: variable that leads to it, for messages.

    Raises:
        StoreError: it cannot be read; so do its methods, where it cannot be read or written.
    """

    def __init__(self, folder: Path, setting: str = "TTA_STORE__PATH") -> None:
        self.folder, self.where, self._setting = folder, str(folder), setting
        with self._telling():
            self._there = folder.is_dir()  # the first writer makes it: a misspelt path stays a path

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            if not self._there or self.folder.is_dir():
                raise
            raise StoreError(f"{self._setting}: the folder {self.folder} was removed; start again") from None
        except OSError as error:
            raise StoreError(f"{self._setting}: {describe(error)}") from error

    def read(self, name: str) -> bytes:
        """Bytes of a file."""
        with self._telling():
            return (self.folder / name).read_bytes()

    def exists(self, name: str) -> bool:
        """Whether the file exists."""
        return (self.folder / name).exists()

    def write(self, name: str, data: bytes) -> None:
        """Replace a file, by rename of a finished one."""
        with self._telling():
            write_atomic(self.folder / name, data)

    def copy(self, name: str, path: Path) -> None:
        """Link a file, or copy it."""
        with self._telling():
            link_or_copy(path, self.folder / name)

    def digest(self, name: str) -> str:
        """Hash of a file."""
        with self._telling():
            return digest_of(self.folder / name)

    def add(self, number: int, files: Mapping[str, bytes | Path]) -> None:
        """Add a version, by rename of a finished folder."""
        # staged under a name that is no number, so that nobody takes a half-written folder for a version
        with self._telling():
            staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=self.folder))
            for name, data in files.items():
                (path := staging / name).parent.mkdir(parents=True, exist_ok=True)
                copy_atomic(data, path) if isinstance(data, Path) else write_atomic(path, data)
            staging.chmod(0o755)
            staging.rename(self.folder / home(number))
            sync_folder(self.folder)

    def numbers(self) -> list[int]:
        """Numbers of the folders that have one for a name."""
        try:
            with self._telling():
                return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())
        except FileNotFoundError:
            return []

    def remove(self, name: str) -> None:
        """Unlink a file, if it exists."""
        with self._telling():
            (self.folder / name).unlink(missing_ok=True)

    def remove_version(self, number: int) -> None:
        """Remove a version, renamed first, so that none is ever half removed."""
        with self._telling():
            gone = Path(tempfile.mkdtemp(prefix=".staging-", dir=self.folder))
            with contextlib.suppress(FileNotFoundError):
                (self.folder / home(number)).rename(gone / "gone")
            shutil.rmtree(gone, ignore_errors=True)

    def path(self, name: str) -> Path | None:
        """Path of a file."""
        return self.folder / name

    def glance(self) -> AbstractContextManager[None]:
        """Do nothing: reads are cheap here."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock against writers of all processes."""
        with self._telling():
            if not self._there:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._there = True
            file = (self.folder / ".lock").open("w")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def sweep(self) -> None:
        """Remove half-written leftovers of crashes."""
        for path in self.folder.glob(".staging-*"):
            if time.time() - path.stat().st_mtime > LEFT_OVER_S:
                shutil.rmtree(path, ignore_errors=True)
