"""A ledger on any fsspec store."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tta_agent.errors import LedgerError, nearest
from tta_agent.ledger.shelves import MANIFEST, home

ALIASES = "aliases.json"
FRESH_S = 2.0  # aliases are asked for again after this


class Store:
    """An fsspec store: s3://, gs://, abfs://, memory://, ...

    Raises:
        LedgerError: nothing installed knows the URL, or the store cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self.where = url.rstrip("/")
        self._lock = threading.Lock()
        self._fs, self._root = _open(self.where)
        self._recent: tuple[float, bytes] | None = None  # aliases: the agent asks for them at every step

    def read(self, name: str) -> bytes:
        """Its bytes; aliases may be `FRESH_S` old."""
        recent = self._recent
        if name == ALIASES and recent and time.monotonic() - recent[0] < FRESH_S:
            return recent[1]
        with self._telling():
            data = bytes(self._fs.cat_file(f"{self._root}/{name}"))
        if name == ALIASES:
            self._recent = (time.monotonic(), data)
        return data

    def exists(self, name: str) -> bool:
        """Whether the object is there."""
        with self._telling():
            self._fs.invalidate_cache()  # listings are remembered, and others write too
            return bool(self._fs.exists(f"{self._root}/{name}"))

    def write(self, name: str, data: bytes) -> None:
        """One object."""
        path = f"{self._root}/{name}"
        with self._telling():
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(path, data)
        self._recent = None

    def add(self, number: int, files: Mapping[str, bytes]) -> None:
        """Object by object, the manifest last."""
        for name in sorted(files, key=lambda name: name == MANIFEST):
            self.write(f"{home(number)}/{name}", files[name])

    def numbers(self) -> list[int]:
        """Those with a manifest."""
        with self._telling():
            self._fs.invalidate_cache()
            found = [str(path).split("/")[-2] for path in self._fs.glob(f"{self._root}/*/{MANIFEST}")]
        return sorted(int(name) for name in found if name.isdecimal())

    def remove(self, name: str) -> None:
        """One object."""
        with self._telling(), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{name}")

    def remove_version(self, number: int) -> None:
        """The manifest first: from there on it does not exist."""
        self.remove(f"{home(number)}/{MANIFEST}")
        with self._telling(), contextlib.suppress(FileNotFoundError):
            self._fs.rm(f"{self._root}/{home(number)}", recursive=True)

    def path(self, name: str) -> Path | None:
        """None: nothing is local."""
        return None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Writers of this object wait for each other."""
        with self._lock:
            self._recent = None  # who writes wants to know what is there now
            yield

    def sweep(self) -> None:
        """What has no manifest costs little, and may be about to get one."""

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:  # each store raises its own kinds
            told = str(error).splitlines() or [type(error).__name__]
            raise LedgerError(f"TTA_STORE__VERSIONS={self.where} cannot be used: {told[0]}") from error


def _open(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        fs, root = fsspec.url_to_fs(url)
    except ImportError as error:
        raise LedgerError(f"TTA_STORE__VERSIONS={url}: {error}") from None
    except ValueError:
        scheme = url.split("://")[0]
        known = nearest(scheme, fsspec.available_protocols())
        raise LedgerError(f"TTA_STORE__VERSIONS={url}: no store is called {scheme}; {known}") from None
    return fs, str(root).rstrip("/")
