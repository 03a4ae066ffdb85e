"""Graph whose large tensors stand in a file beside it, opened with other tensors in the places of some.

A version changes few tensors of many. ONNX Runtime maps the file into memory and takes the changed tensors from the
caller, so that a session of a version reads, parses and hashes no whole file, and sessions share the rest.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx.external_data_helper import uses_external_data

from tta_agent.core.atomic_files import write_atomic
from tta_agent.core.errors import GraphError
from tta_agent.models import external_data, weight_delta
from tta_agent.models.external_data import LARGE
from tta_agent.models.packed import PackedGraph, machine
from tta_agent.models.patched_graph import PatchedGraph

log = logging.getLogger(__name__)
_ALIGNED = 4096  # a page, so that a tensor can be mapped


class Skeleton:
    """Version 0's graph, its large tensors in a file of their own.

    Args:
        graph: serialised, verified by its hash.
        weights: the file; written anew unless it holds the same bytes. Data files of the graph itself are beside it.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, graph: bytes, weights: Path) -> None:
        proto = onnx.ModelProto.FromString(graph)
        pieces, self._large, at = list[bytes](), set[str](), 0
        for slot in proto.graph.initializer:
            data = slot.raw_data
            if uses_external_data(slot):
                self._large.add(slot.name)
            elif slot.data_type in weight_delta.KINDS and len(data) >= LARGE:
                external_data.place(slot, weights.name, at, len(data))
                self._large.add(slot.name)
                pieces += [data, bytes(-len(data) % _ALIGNED)]
                at += len(data) + len(pieces[-1])
        self._model, self._weights = bytes(proto.SerializeToString()), weights
        if not _holds(weights, pieces):
            write_atomic(weights, *pieces)
        self._stamp = _stamp(weights)
        self._packed: PackedGraph | None = None

    def pack(self) -> None:
        """Have ONNX Runtime optimise the graph for this processor, once for all sessions; no loss where it cannot."""
        graph, folder = (
            PatchedGraph(self._model, self._weights.parent, {}),
            self._weights.with_suffix(f".{machine()}.packed"),
        )
        try:
            self._packed = PackedGraph(graph, folder)
        except (GraphError, OSError) as error:
            log.info("the graph is optimised for each session anew: %s", error)
            return
        if not self._packed.useful:  # as where each BatchNorm goes into a convolution
            self._packed = None
            shutil.rmtree(folder, ignore_errors=True)

    def sound(self) -> bool:
        """Whether the file has not been touched since it was compared."""
        return self._weights.exists() and _stamp(self._weights) == self._stamp

    def patched(self, tensors: bytes) -> PatchedGraph:
        """The graph with the tensors of a safetensors file.

        Raises:
            RegistryError: the graph has no such tensor, or the file is damaged.
        """
        given = weight_delta.read(tensors)
        if self._packed and (found := self._packed.patched(given)):
            return found
        small = {name: tensor for name, tensor in given.items() if name not in self._large}
        large = {name: np.ascontiguousarray(given[name]) for name in given.keys() - small.keys()}
        model = weight_delta.with_tensors(self._model, small)
        return PatchedGraph(model, self._weights.parent, large)


def _holds(path: Path, pieces: Sequence[bytes]) -> bool:
    """Whether a file has these pieces, one after the other, and no more."""
    try:
        with path.open("rb") as file:
            return all(file.read(len(piece)) == piece for piece in pieces) and not file.read(1)
    except FileNotFoundError:
        return False


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size
