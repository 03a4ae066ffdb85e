"""Numbered version folders of a model in a model server's repository."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tta_agent.core import os_errors
from tta_agent.core.atomic_files import link_or_copy, sync_folder, sync_tree
from tta_agent.core.errors import SwapError
from tta_agent.core.types import Version

MARKER = "tta.json"  # in version folders of ours
STAGING = ".tta"  # beside them: no number, so that no server takes it for a version


class VersionFolder:
    """Folder HOME/NUMBER/FILE. A version appears in it whole: written beside, synced, then renamed.

    Version n of the registry has the number of the source plus n, so that numbers tell versions without a table.
    Folders of ours carry a marker; others are their owner's and stay.

    Args:
        home: folder of the model.
        file: name of the graph in a version's folder.
        source: number of the deployed version.
    """

    def __init__(self, home: Path, file: str, source: int) -> None:
        self.home, self.source, self._file = home, source, file

    def check(self) -> None:
        """Raise SwapError, with what to do, unless versions can be written here."""
        if not self.home.is_dir():
            raise SwapError(
                f"{self.home} is no folder: name the one in which the server's repository is, as it is mounted here"
            )
        with self._told():
            self._hidden("probe").mkdir(parents=True, exist_ok=True)
            self._hidden("probe").rmdir()

    def check_source(self) -> None:
        """Raise SwapError, with what to do, unless the newest folder that is not ours is the source."""
        theirs = [number for number in self.numbers() if not _marked(self.home / str(number))]
        if not theirs:
            raise SwapError(
                f"{self.home} holds no version of the deployed model: put it back as version {self.source}"
            )
        if max(theirs) != self.source:
            raise SwapError(
                f"{self.home} holds the deployed model as version {max(theirs)}, not {self.source}:\n"
                f"set TTA_MODEL__SERVED_VERSION={max(theirs)}; version n of the registry is then {max(theirs)} + n"
            )

    def numbers(self) -> list[int]:
        """Numbers of the versions that are there, in order; a server reads them the same way."""
        with self._told():
            return sorted(
                int(path.name) for path in self.home.iterdir() if path.name.isdecimal() and path.is_dir()
            )

    def has(self, number: int) -> bool:
        """Whether a version is there, in the server's sight or out of it."""
        return any((home / self._file).exists() for home in (self.home / str(number), self._hidden(number)))

    def number_of(self, version: Version | int) -> int:
        """Number in the server of a version of the registry."""
        return self.source + (version if isinstance(version, int) else version.number)

    def stage(self, version: Version) -> Path:
        """Write the version beside the others, synced to the disk, unless it is there; its folder.

        Files that the source has beside its graph (a Python backend's model.py, labels) are copied.
        """
        number = self.number_of(version)
        home, hidden = self.home / str(number), self._hidden(number)
        with self._told():
            if _is(home, version) or (version.number == 0 and (home / self._file).exists()):
                self._remove(hidden)
                return home
            if not _is(hidden, version):
                self._write(version, hidden)
        return hidden

    def _write(self, version: Version, staged: Path) -> None:
        source, draft = self.home / str(self.source), staged.with_name(f"draft-{staged.name}")
        self._remove(staged)
        self._remove(draft)
        draft.parent.mkdir(exist_ok=True)
        draft.mkdir()
        if source.exists():
            ignored = shutil.ignore_patterns(self._file, MARKER, "__pycache__", *version.data)
            shutil.copytree(source, draft, ignore=ignored, copy_function=shutil.copyfile, dirs_exist_ok=True)
        shutil.copyfile(version.path, draft / self._file)
        self._write_data(version, draft)
        (draft / MARKER).write_text(json.dumps(marker_of(version)))
        sync_tree(draft)
        draft.rename(staged)

    def _write_data(self, version: Version, draft: Path) -> None:
        """Link the data files, which are large and never change, to those of a version beside it; else copy them."""
        marked = (*self.home.glob(f"*/{MARKER}"), *self._hidden("").glob(f"*/{MARKER}"))
        data = {path.parent: _marker(path.parent).get("data", {}) for path in marked} if version.data else {}
        for name, sha256 in version.data.items():
            held = [folder / name for folder, hashes in data.items() if hashes.get(name) == sha256]
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(draft / name, *held, version.path.parent / name)

    def reveal(self, number: int) -> None:
        """Let a version that is staged, or was hidden, be the newest: newer ones are hidden."""
        self.place(number)
        with self._told():
            for newer in [found for found in self.numbers() if found > number]:
                self._hide(newer, newer)
            sync_folder(self.home)

    def place(self, number: int) -> None:
        """Rename a version that is staged, or was hidden, to its place."""
        with self._told():
            if self._hidden(number).exists():
                self._hide(number, f"gone-{number}")
                self._hidden(number).rename(self.home / str(number))
                sync_folder(self.home)

    def prune(self, keep: set[int]) -> None:
        """Remove versions of ours, hidden ones too, but these, by their numbers."""
        with self._told():
            for number in self.numbers():
                if number not in keep and _marked(self.home / str(number)):
                    self._hide(number, f"gone-{number}")
            for path in self._hidden("").glob("*"):
                if not (path.name.isdecimal() and int(path.name) in keep):
                    self._remove(path)

    def _hide(self, number: int, name: int | str) -> None:
        """Take a version out of the server's sight, whole."""
        if (self.home / str(number)).exists():
            self._remove(self._hidden(name))
            self._hidden(name).parent.mkdir(exist_ok=True)
            (self.home / str(number)).rename(self._hidden(name))

    @staticmethod
    def _remove(path: Path) -> None:
        if path.exists():
            shutil.rmtree(path)

    def _hidden(self, name: int | str) -> Path:
        return self.home / STAGING / str(name)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SwapError(f"{os_errors.describe(error, error.filename or self.home)}\n{_HINT}") from error


_HINT = (
    "Mount the server's repository for the agent with the right to write"
    ' (KServe: annotation storage.kserve.io/readonly: "false").'
)


def _marked(folder: Path) -> bool:
    return (folder / MARKER).exists()


def marker_of(version: Version) -> dict[str, Any]:
    """Content of the marker in a version's folder."""
    beside = {"data": dict(version.data)} if version.data else {}
    return {"version": version.number, "sha256": version.sha256, **beside}


def _marker(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / MARKER).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _is(folder: Path, version: Version) -> bool:
    """Whether the folder holds the graph that the registry has under this number."""
    return bool(_marker(folder).get("sha256") == version.sha256)
