"""Versions under a URL from which a platform copies them: STORE/MODEL/NUMBER/FILE, in a folder or an object store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from tta_agent.core import os_errors
from tta_agent.core.atomic_files import link_or_copy, sync_folder, sync_tree
from tta_agent.core.errors import SwapError
from tta_agent.core.types import Version
from tta_agent.serving.clients.version_folder import MARKER, STAGING, marker_of

Files = Mapping[str, bytes | Path]  # of large ones the paths


class _Place(Protocol):
    """Folders of numbers, each with files."""

    def probe(self) -> None: ...
    def put(self, number: int, files: Files) -> None: ...
    def read(self, number: int, name: str) -> bytes: ...
    def numbers(self) -> list[int]: ...
    def remove(self, number: int) -> None: ...


class UriStore:
    """Versions of one model.

    Args:
        store: folder, or URL of any fsspec store, as the agent writes it.
        uri: the same place as the platform reads it; None: as `store`.
        file: name of the graph under a version's folder, `m/1/model.onnx` for a repository of Triton's form.
        beside: folder whose files each version has beside its graph: `config.pbtxt`, `model-settings.json`.
    """

    def __init__(self, store: str, uri: str | None, model: str, file: str, beside: str | None) -> None:
        self._prefix = f"{(uri or store).rstrip('/')}/{model}/"
        self._where, self._model, self._file = store, model, file
        self._beside = None if beside is None else Path(beside)
        self._made: _Place | None = None

    def check(self) -> None:
        """Raise SwapError, with what to do, unless versions can be written."""
        with self._telling():
            self._place().probe()
            self._more()

    def write(self, version: Version) -> None:
        """Write a version whole, unless it is there, and read it back.

        Raises:
            SwapError: it cannot be written, or reads otherwise.
        """
        with self._telling():
            if self._is(version):
                return
            graph, beside = version.path.read_bytes(), PurePosixPath(self._file).parent
            data = {str(beside / name): version.path.parent / name for name in version.data}
            marker = json.dumps(marker_of(version)).encode()
            self._place().put(version.number, {**self._more(), **data, self._file: graph, MARKER: marker})
            if self._place().read(version.number, self._file) != graph:
                raise SwapError(f"{self.uri(version.number)} reads otherwise than it was written")

    def has(self, number: int) -> bool:
        """Whether a version is there, whole."""
        with self._telling():
            return number in self._place().numbers() and bool(self._marker(number))

    def prune(self, keep: set[int]) -> None:
        """Remove versions of ours but these."""
        with self._telling():
            for number in self._place().numbers():
                if number not in keep and self._marker(number):
                    self._place().remove(number)

    def uri(self, number: int) -> str:
        """Address of a version, as the platform reads it."""
        return f"{self._prefix}{number}"

    def number(self, uri: str) -> int | None:
        """Version of an address; None of one that is not ours."""
        tail = uri.removeprefix(self._prefix) if uri.startswith(self._prefix) else ""
        return int(tail) if tail.isdecimal() else None

    def _is(self, version: Version) -> bool:
        return self._marker(version.number).get("sha256") == version.sha256

    def _marker(self, number: int) -> dict[str, Any]:
        try:
            return dict(json.loads(self._place().read(number, MARKER)))
        except (FileNotFoundError, ValueError):
            return {}

    def _more(self) -> dict[str, bytes]:
        if self._beside is None:
            return {}
        found = [path for path in sorted(self._beside.rglob("*")) if path.is_file()]
        return {str(path.relative_to(self._beside)): path.read_bytes() for path in found}

    def _place(self) -> _Place:
        if self._made is None:
            local = "://" not in self._where
            self._made = (
                _Folder(Path(self._where) / self._model) if local else _Objects(self._where, self._model)
            )
        return self._made

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except SwapError:
            raise
        except OSError as error:
            told = os_errors.describe(error, error.filename or self._where)
            raise SwapError(
                f"{told}\nversions are written to the driver's option store={self._where}"
            ) from error
        except Exception as error:  # each store raises kinds of its own
            raise SwapError(
                f"the driver's option store={self._where} cannot be used: {type(error).__name__}: {error}"
            ) from error


class _Folder:
    """A folder on a volume that the platform reads: a version appears in it by one rename."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def probe(self) -> None:
        (self._home / STAGING / "probe").mkdir(parents=True, exist_ok=True)
        (self._home / STAGING / "probe").rmdir()

    def put(self, number: int, files: Files) -> None:
        draft = self._home / STAGING / f"draft-{number}"
        shutil.rmtree(draft, ignore_errors=True)
        for name, data in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(data, Path):
                link_or_copy(draft / name, data)
            else:
                (draft / name).write_bytes(data)
        sync_tree(draft)
        self.remove(number)
        draft.rename(self._home / str(number))
        sync_folder(self._home)

    def read(self, number: int, name: str) -> bytes:
        return (self._home / str(number) / name).read_bytes()

    def numbers(self) -> list[int]:
        there = self._home.iterdir() if self._home.is_dir() else ()
        return sorted(int(path.name) for path in there if path.name.isdecimal())

    def remove(self, number: int) -> None:
        gone = self._home / STAGING / f"gone-{number}"
        shutil.rmtree(gone, ignore_errors=True)
        if (self._home / str(number)).exists():
            (self._home / str(number)).rename(gone)
            shutil.rmtree(gone)


class _Objects:
    """An object store: no reader knows a version before the resource names it, and the marker is written last."""

    def __init__(self, url: str, model: str) -> None:
        import fsspec  # slow, and only this driver needs it

        self._fs, root = fsspec.core.url_to_fs(url)
        self._home = f"{str(root).rstrip('/')}/{model}"

    def probe(self) -> None:
        self._fs.pipe_file(f"{self._home}/{STAGING}", b"")
        self._fs.rm(f"{self._home}/{STAGING}")

    def put(self, number: int, files: Files) -> None:
        self.remove(number)
        for name, data in files.items():
            path = f"{self._home}/{number}/{name}"
            self._fs.put_file(str(data), path) if isinstance(data, Path) else self._fs.pipe_file(path, data)

    def read(self, number: int, name: str) -> bytes:
        self._fs.invalidate_cache()
        return bytes(self._fs.cat_file(f"{self._home}/{number}/{name}"))

    def numbers(self) -> list[int]:
        self._fs.invalidate_cache()
        try:
            names = [
                str(path).rstrip("/").rpartition("/")[2] for path in self._fs.ls(self._home, detail=False)
            ]
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if name.isdecimal())

    def remove(self, number: int) -> None:
        if number in self.numbers():
            self._fs.rm(f"{self._home}/{number}", recursive=True)
