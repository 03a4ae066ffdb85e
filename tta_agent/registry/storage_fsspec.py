"""Storage of a registry on any fsspec store."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tta_agent.core.errors import RegistryError, StoreError, nearest
from tta_agent.core.redact import without_user
from tta_agent.registry.storage import MANIFEST, home

ALIASES = "aliases.json"
FRESH_S = 2.0  # aliases are asked for again after this
AGAIN_S = (
    30.0  # and after this, where the store did not answer: its package has tried for seconds, several times
)
log = logging.getLogger(__name__)


class Store:
    """Storage on fsspec: s3://, gs://, abfs://, memory://, ...

    A request takes tens of milliseconds and a registry has hundreds of objects: the names of all come from one
    listing, and `glance` and `lock` remember it. Buckets are never made: a misspelt name is an error.

    Raises:
        RegistryError: nothing installed knows the URL; `StoreError`: the store cannot be reached.
    """

    def __init__(self, url: str) -> None:
        url = url.rstrip("/")
        self.where = without_user(url)
        self._lock = threading.Lock()
        with self._telling():
            self._fs, self._root = _open(url)
        self._recent: tuple[float, bytes] | None = None  # aliases: the agent asks for them at every step
        self._last: bytes | None = None  # and goes on with these while the store does not answer
        self._mine = threading.local()  # `names` and `writes`, while this thread is in `glance` or `lock`

    def read(self, name: str) -> bytes:
        """Bytes of an object; aliases may be `FRESH_S` old, and older for readers while the store is away."""
        if name == ALIASES:
            return self._aliases()
        names = self._remembered()
        if names is not None and name not in names:
            raise FileNotFoundError(name)
        return self._fetch(name)

    def _fetch(self, name: str) -> bytes:
        with self._telling(name):
            self._fs.invalidate_cache()  # what others have written since the last listing would not be found
            return bytes(self._fs.cat_file(f"{self._root}/{name}"))

    def _aliases(self) -> bytes:
        recent = self._recent
        if recent and time.monotonic() < recent[0]:
            return recent[1]
        try:
            data, good_s = self._fetch(ALIASES), FRESH_S
        except StoreError as error:
            if self._last is None or getattr(self._mine, "writes", False):
                raise
            data, good_s = self._last, AGAIN_S
            log.warning("%s; going on with the aliases read last, next attempt in %.0f s", error, AGAIN_S)
        self._keep(data, good_s)
        return data

    def _keep(self, aliases: bytes, good_s: float) -> None:
        self._last, self._recent = aliases, (time.monotonic() + good_s, aliases)

    def exists(self, name: str) -> bool:
        """Whether the object exists."""
        names = self._remembered()
        if names is not None:
            return name in names
        with self._telling():
            self._fs.invalidate_cache()
            return bool(self._fs.exists(f"{self._root}/{name}"))

    def write(self, name: str, data: bytes | Path) -> None:
        """Replace an object, by bytes or by the content of a file."""
        if name == ALIASES:
            self._recent = None
        with self._telling(name):
            self._put(f"{self._root}/{name}", data)
        if name == ALIASES and isinstance(data, bytes):
            self._keep(data, FRESH_S)
        if (names := self._remembered()) is not None:
            names.add(name)

    def copy(self, name: str, path: Path) -> None:
        """Download an object."""
        with self._telling(name):
            self._fs.invalidate_cache()
            self._fs.get_file(f"{self._root}/{name}", str(path))

    def digest(self, name: str) -> str:
        """Hash of an object."""
        with self._telling(name), self._fs.open(f"{self._root}/{name}", "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _put(self, path: str, data: bytes | Path) -> None:
        """Folders are made where the store has any, below what is there: a bucket or the root."""
        try:
            self._send(path, data)
        except FileNotFoundError:
            if not self._fs.exists(path.split("/")[0] or "/"):
                raise self._no_bucket() from None
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._send(path, data)

    def _send(self, path: str, data: bytes | Path) -> None:
        self._fs.put_file(str(data), path) if isinstance(data, Path) else self._fs.pipe_file(path, data)

    def add(self, number: int, files: Mapping[str, bytes | Path]) -> None:
        """Add a version, object by object, the manifest last."""
        for name in sorted(files, key=lambda name: name == MANIFEST):
            self.write(f"{home(number)}/{name}", files[name])

    def numbers(self) -> list[int]:
        """Numbers of the versions with a manifest."""
        names = self._remembered()
        parts = [name.split("/") for name in (self._listed() if names is None else names)]
        return sorted(int(part[0]) for part in parts if part[1:] == [MANIFEST] and part[0].isdecimal())

    def _listed(self) -> set[str]:
        """Names of all objects; one request for a thousand of them."""
        try:
            with self._telling():
                self._fs.invalidate_cache()
                found = map(str, self._fs.find(self._root))
        except FileNotFoundError:  # an empty registry is an empty list
            raise self._no_bucket() from None
        return {path.removeprefix(f"{self._root}/") for path in found}

    def remove(self, name: str) -> None:
        """Remove an object."""
        with self._telling(), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{name}")
        (self._remembered() or set()).discard(name)

    def remove_version(self, number: int) -> None:
        """Remove a version, the manifest first: from then on it does not exist."""
        self.remove(f"{home(number)}/{MANIFEST}")
        with self._telling(), contextlib.suppress(FileNotFoundError):
            self._fs.rm(f"{self._root}/{home(number)}", recursive=True)
        if names := self._remembered():
            names -= {name for name in names if name.startswith(f"{home(number)}/")}

    def path(self, name: str) -> Path | None:
        """None: no file is local."""
        return None

    @contextlib.contextmanager
    def glance(self) -> Iterator[None]:
        """List the objects once, at the start; for this thread, which sees its own changes."""
        if self._remembered() is not None:
            yield
            return
        self._mine.names = self._listed()
        try:
            yield
        finally:
            self._mine.names = None

    def _remembered(self) -> set[str] | None:
        names: set[str] | None = getattr(self._mine, "names", None)
        return names

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock against writers of this process."""
        with self._lock, self.glance():
            self._recent = None  # who writes wants to know what is there now
            self._mine.writes = True
            try:
                yield
            finally:
                self._mine.writes = False

    def sweep(self) -> None:
        """Do nothing: files without a manifest cost little, and may be about to get one."""

    @contextlib.contextmanager
    def _telling(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, RegistryError):
            raise
        except Exception as error:  # each store raises its own kinds
            told = str(error).splitlines() or [type(error).__name__]
            about = f"{name}: " if name else ""
            cause = without_user(told[0].rstrip("."))
            what = f"TTA_STORE__VERSIONS={self.where} cannot be used: {about}{cause}"
            raise StoreError(what + _advice(self.where, error)) from error

    def _no_bucket(self) -> StoreError:
        bucket = self._root.split("/")[0] or self._root
        return StoreError(
            f"TTA_STORE__VERSIONS={self.where} cannot be used: there is no bucket {bucket} (or it is not shown to"
            " this key); make it first, or correct the name"
        )


def _open(url: str) -> tuple[Any, str]:
    import fsspec

    scheme = url.split("://")[0]
    try:
        fs, root = fsspec.url_to_fs(url, use_listings_cache=False)  # others write too
    except ImportError as error:
        raise RegistryError(f"TTA_STORE__VERSIONS={without_user(url)}: {error}") from None
    except ValueError:
        known = nearest(scheme, fsspec.available_protocols())
        told = f"TTA_STORE__VERSIONS={without_user(url)}: no store is called {scheme}; {known}"
        raise RegistryError(told) from None
    return fs, str(root).rstrip("/")


DENIED = ("credential", "access key", "signature", "forbidden", "denied", "token")
AWAY = ("connect", "timeout", "timed out", "unreachable", "resolve", "name or service")


def _advice(url: str, error: Exception) -> str:
    """What to look at first."""
    text, s3 = str(error).lower(), url.startswith(("s3://", "s3a://"))
    if isinstance(error, PermissionError) or any(word in text for word in DENIED):
        names = " (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE)" if s3 else ""
        return f"; check the credentials{names} and that they may list, read, write and delete there"
    if isinstance(error, OSError | TimeoutError) or any(word in text for word in AWAY):
        names = " (AWS_ENDPOINT_URL where it is not Amazon's)" if s3 else ""
        return f"; is the store up and its address right{names}?"
    return ""
