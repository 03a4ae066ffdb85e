"""Stored form of a graph: whole, or only the tensors that differ from version 0's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from tta_agent.core.errors import RegistryError
from tta_agent.models.data_files import DataFiles
from tta_agent.registry import shared_data
from tta_agent.registry.cache import digest
from tta_agent.registry.storage import Storage, home

FULL, DELTA = "model.onnx", "tensors.safetensors"
Packed: TypeAlias = tuple[dict[str, bytes | Path], dict[str, Any]]  # files, entries of the manifest


def pack(graph: bytes, skeleton: bytes | None, data: DataFiles | None = None) -> Packed:
    """Files of a version, and the entries of its manifest about them.

    Args:
        graph: serialised ONNX model.
        skeleton: version 0's; None for version 0 itself.
        data: files beside version 0's graph.
    """
    head = {"sha256": digest(graph), "bytes": len(graph)}
    if skeleton is None:
        beside, about = shared_data.pack(data)
        return {FULL: graph, **beside}, {**head, **about, "artefact": "full"}
    from tta_agent.models import weight_delta  # onnx: not for those who only read

    tensors = weight_delta.changed(skeleton, graph)
    if tensors is None:
        return {FULL: graph}, {**head, "artefact": "full", "why_full": "other changes than of tensors"}
    if len(tensors) >= len(graph):
        return {FULL: graph}, {**head, "artefact": "full", "why_full": "the tensors are not smaller"}
    more = {
        "skeleton_sha256": digest(skeleton),
        "tensors_sha256": digest(tensors),
        "tensors": weight_delta.sizes(tensors),
    }
    return {DELTA: tensors}, {**head, "artefact": "delta", **more}


def present(storage: Storage, number: int) -> bool:
    """Whether the graph of a version is still kept, in either form."""
    return any(storage.exists(f"{home(number)}/{name}") for name in (FULL, DELTA))


def unpack(storage: Storage, number: int, skeleton: Callable[[], bytes]) -> bytes:
    """Full graph of a version; its hash is not compared yet.

    Raises:
        RegistryError: a part cannot be read.
    """
    try:
        return storage.read(f"{home(number)}/{FULL}")
    except FileNotFoundError:
        pass
    from tta_agent.models import weight_delta

    try:
        return weight_delta.compose(skeleton(), storage.read(f"{home(number)}/{DELTA}"))
    except FileNotFoundError:
        raise RegistryError("its graph is gone") from None


def discard(storage: Storage, number: int) -> None:
    """Remove the graph of a version; its explanation stays."""
    for name in (FULL, DELTA):
        storage.remove(f"{home(number)}/{name}")
