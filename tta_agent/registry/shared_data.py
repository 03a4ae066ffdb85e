"""Data files of version 0, with the large tensors that it shares with every version: graphs above 2 GiB have them."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tta_agent.core.atomic_files import copy_atomic
from tta_agent.core.errors import RegistryError
from tta_agent.core.types import Version
from tta_agent.models.data_files import DataFiles
from tta_agent.registry.cache import Cache, digest_of
from tta_agent.registry.storage import Storage, home


def pack(data: DataFiles | None) -> tuple[dict[str, bytes | Path], dict[str, Any]]:
    """Files to add to version 0, and the entry of its manifest about them."""
    if data is None:
        return {}, {}
    paths = {name: data.folder / name for name in data.names}
    told = {name: {"sha256": digest_of(path), "bytes": path.stat().st_size} for name, path in paths.items()}
    return dict(paths), {"data": told}


def hashes(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Hash of each data file by its name, of version 0's manifest."""
    return {name: told["sha256"] for name, told in manifest.get("data", {}).items()}


def bring(storage: Storage, cache: Cache, folder: Path, data: Mapping[str, str]) -> None:
    """Have the data files in a local folder, verified.

    Raises:
        RegistryError: one is gone or damaged.
    """
    for name, sha256 in data.items():
        cache.place(folder / name, sha256, functools.partial(storage.copy, f"{home(0)}/{name}"))


def export(version: Version, out: Path) -> int:
    """Write a graph to a file, and its data files beside it unless they are there; bytes of all.

    Raises:
        OSError: one cannot be written.
    """
    for name, sha256 in version.data.items():
        target = out.parent / name
        if not (target.is_file() and digest_of(target) == sha256):
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_atomic(version.path.parent / name, target)  # others may have the file open
    shutil.copyfile(version.path, out)
    return version.size


def check(storage: Storage, data: Mapping[str, str]) -> None:
    """Read the data files as they are stored; raises as `bring` does."""
    for name, sha256 in data.items():
        if (found := storage.digest(f"{home(0)}/{name}")) != sha256:
            raise RegistryError(
                f"its data file {name} has sha256 {found[:12]}…, its manifest says {sha256[:12]}…"
            )
