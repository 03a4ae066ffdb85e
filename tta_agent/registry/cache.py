"""Cache of full graphs on this machine, copied from a store, or composed of a skeleton and changed tensors."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Collection
from pathlib import Path

from tta_agent.core.atomic_files import write_atomic
from tta_agent.core.errors import RegistryError, StoreError
from tta_agent.core.os_errors import describe

NEWEST = 4  # graphs kept beside those of aliased versions


class Cache:
    """Files `<folder>/<sha256>.onnx`, each verified before it is handed out. May be shared by processes.

    Args:
        needed: sha256 of the graphs that must stay; asked before anything is removed.
    """

    def __init__(self, folder: Path, needed: Callable[[], Collection[str]]) -> None:
        self.folder, self._needed = folder, needed
        self._seen: dict[tuple[int, ...], str] = {}  # hash of each file that was read, wherever it is linked

    def fetch(self, sha256: str, make: Callable[[], bytes]) -> Path:
        """File of a graph; made by `make()` where it is missing or damaged.

        Raises:
            RegistryError: `make()` made another graph.
        """
        path = self.folder / f"{sha256}.onnx"
        if not self.sound(path, sha256):
            data = make()
            same(data, sha256)
            self._keep(path, data)
        return path

    def sound(self, path: Path, sha256: str) -> bool:
        """Whether a file exists and has this hash; one that was not touched since is not read again."""
        try:
            now = _stamp(path)
            if now not in self._seen:
                self._seen[now] = digest_of(path)
        except FileNotFoundError:
            return False
        return self._seen[now] == sha256

    def place(self, path: Path, sha256: str, make: Callable[[Path], None]) -> None:
        """Have a data file in its place, made by `make(path)` where it is missing or damaged.

        Raises:
            RegistryError: `make` made another file.
        """
        if self.sound(path, sha256):
            return
        draft = path.with_name(f".{path.name}-draft")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.unlink(missing_ok=True)
            make(draft)
            if not self.sound(draft, sha256):
                raise RegistryError(f"its data file {path.name} has another hash than its manifest says")
            draft.replace(path)
        except FileNotFoundError:
            raise RegistryError(f"its data file {path.name} is gone") from None
        except OSError as error:
            raise StoreError(f"TTA_STORE__PATH: {describe(error, path)}") from None
        finally:
            draft.unlink(missing_ok=True)

    def _keep(self, path: Path, data: bytes) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data)
        except OSError as error:
            raise StoreError(f"TTA_STORE__PATH: {describe(error, path)}") from None
        self._seen[_stamp(path)] = path.stem
        self.prune()

    def prune(self) -> list[Path]:
        """Remove all but the needed and the newest; the removed files."""
        there = sorted(self.folder.glob("*.onnx"), key=lambda path: -path.stat().st_mtime_ns)
        needed = set(self._needed())
        gone = [path for path in there[NEWEST:] if path.stem not in needed]
        for path in gone:
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                self._seen.pop(_stamp(path), None)
                path.unlink()
        return gone


def digest_of(path: Path) -> str:
    """SHA-256 of a file, read in portions."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(data: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def same(graph: bytes, sha256: str) -> None:
    """Raise RegistryError where the graph has another hash."""
    if digest(graph) != sha256:
        raise RegistryError(f"its graph has sha256 {digest(graph)[:12]}…, its manifest says {sha256[:12]}…")


def _stamp(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size
