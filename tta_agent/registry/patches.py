"""Versions as version 0 with other tensors: for a server that opens these, and needs no whole file."""

from __future__ import annotations

import logging
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tta_agent.core.errors import RegistryError, StoreError
from tta_agent.models.patched_graph import PatchedGraph
from tta_agent.registry import shared_data
from tta_agent.registry.artefacts import DELTA
from tta_agent.registry.cache import digest
from tta_agent.registry.reader import Reader
from tta_agent.registry.storage import home as folder_of

if TYPE_CHECKING:
    from tta_agent.models.skeleton import Skeleton

PACKED = 64 << 20  # bytes of a graph from which on a session takes long enough
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patch:
    """A version that has been read and verified.

    Attributes:
        sha256: of its whole graph, of which the tensors and version 0 are a proof.
    """

    sha256: str
    graph: PatchedGraph


class Patches:
    """Patches of the versions of a registry. Version 0 stands ready in its cache, or in a temporary folder.

    Args:
        packed: optimise version 0 for this processor once, not for each session; that is saved, and takes its size
            twice. Not for models above 2 GiB.
    """

    def __init__(self, registry: Reader, *, packed: bool = False) -> None:
        self._registry, self._packs = registry, packed
        self._made: Skeleton | None = None
        self._own: Path | None = None

    def find(self, number: int) -> Patch | None:
        """Patch of a version; None where it is kept whole, or there is no room for version 0.

        Raises:
            RegistryError: it is damaged.
        """
        tensors = self._tensors(number)
        manifest = {} if tensors is None else self._registry.manifest(number)
        if tensors is None or "tensors_sha256" not in manifest:
            return None
        if digest(tensors) != manifest["tensors_sha256"]:
            raise RegistryError(
                f"version {number} is damaged: its tensors have sha256 {digest(tensors)[:12]}"
            )
        skeleton = self.skeleton()
        return Patch(manifest["sha256"], skeleton.patched(tensors)) if skeleton else None

    def skeleton(self) -> Skeleton | None:
        """Version 0, verified and made ready once; None where it cannot be written."""
        if self._made is None or not self._made.sound():
            self._made = self._make()
        return self._made

    def _make(self) -> Skeleton | None:
        from tta_agent.models.skeleton import Skeleton  # onnx: not for those who only read

        source = self._registry.get(0)
        for folder in (self._in_cache, self._in_temporary):
            try:
                shared_data.bring(self._registry.storage, self._registry.cache, home := folder(), source.data)
                found = Skeleton(source.path.read_bytes(), home / f"{source.sha256}.weights")
                if self._packs and source.size >= PACKED and not source.data:
                    found.pack()
                return found
            except (OSError, StoreError) as error:
                log.info("no weights of version 0 for patches: %s", error)
        log.warning("versions are opened from whole files: neither cache nor temporary folder can be written")
        return None

    def _in_cache(self) -> Path:
        self._registry.cache.folder.mkdir(parents=True, exist_ok=True)
        return self._registry.cache.folder

    def _in_temporary(self) -> Path:
        """Where the registry is mounted for reading only."""
        if self._own is None:
            self._own = Path(tempfile.mkdtemp(prefix="tta-weights-"))
            weakref.finalize(self, shutil.rmtree, self._own, ignore_errors=True)
        return self._own

    def _tensors(self, number: int) -> bytes | None:
        try:
            return self._registry.storage.read(f"{folder_of(number)}/{DELTA}")
        except FileNotFoundError:
            return None
