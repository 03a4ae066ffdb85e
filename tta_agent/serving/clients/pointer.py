"""The file by which a server, or code of its owner, finds the version to load: changed by one rename."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from tta_agent.core.atomic_files import sync_folder, write_atomic
from tta_agent.core.errors import SwapError

SETTINGS = "model-settings.json"  # of MLServer
LINK = "current"


Undo: TypeAlias = Callable[[], None]


class Pointer(Protocol):
    """Name of the version folder that is to be loaded."""

    def read(self) -> int | None:
        """Its number; None where no version of ours was ever pointed at."""

    def write(self, number: int) -> Undo:
        """Point at another one: readers see the one before or this one. Returns the way back."""


class Link:
    """Symbolic link HOME/current -> NUMBER."""

    def __init__(self, home: Path) -> None:
        self._link = home / LINK

    def read(self) -> int | None:
        """Number of the folder; None where there is no link."""
        if not self._link.is_symlink():
            return None
        name = self._link.readlink().name
        return int(name) if name.isdecimal() else None

    def write(self, number: int) -> Undo:
        """Replace the link."""
        before = self._link.readlink() if self._link.is_symlink() else None
        self._replace(Path(str(number)))
        return partial(self._replace, before)

    def _replace(self, target: Path | None) -> None:
        if target is None:
            self._link.unlink(missing_ok=True)
            return
        draft = self._link.with_name(f".{LINK}-draft")
        draft.unlink(missing_ok=True)
        draft.symlink_to(target)
        draft.replace(self._link)
        sync_folder(self._link.parent)


class MlServerSettings:
    """MLServer's HOME/model-settings.json: `parameters.uri` is NUMBER/FILE.

    `parameters.version` stays: MLServer loads a model of the same version beside the old one, but refuses requests
    while it loads one of a new version.
    """

    def __init__(self, home: Path, file: str) -> None:
        self._path, self._file = home / SETTINGS, file

    def read(self) -> int | None:
        """Number of the folder; None where its owner keeps the graph elsewhere."""
        number = Path(str(self._parameters(self._content()).get("uri") or "")).parent.name
        return int(number) if number.isdecimal() else None

    def write(self, number: int) -> Undo:
        """Name the graph; all else stays as its owner wrote it."""
        before, content = self._path.read_bytes(), self._content()
        content["parameters"] = {**self._parameters(content), "uri": f"./{number}/{self._file}"}
        write_atomic(self._path, json.dumps(content, indent=2).encode())
        return partial(write_atomic, self._path, before)

    def _content(self) -> dict[str, Any]:
        try:
            content = json.loads(self._path.read_text())
        except ValueError as error:
            raise SwapError(f"{self._path} is not JSON: {error}") from error
        return dict(content)

    @staticmethod
    def _parameters(content: Mapping[str, Any]) -> dict[str, Any]:
        return dict(content.get("parameters") or {})


def pointer(home: Path, file: str) -> Pointer:
    """The pointer that a folder has: MLServer's settings where they are there, else the link."""
    return MlServerSettings(home, file) if (home / SETTINGS).exists() else Link(home)
