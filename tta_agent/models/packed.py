"""Graph as ONNX Runtime optimises it for this processor, its matrices packed: a session of it opens in a fraction.

ONNX Runtime optimises a graph, and packs its matrices, for each session anew. Here that is done once, and saved.
Sessions of it map the packed matrices, and so share them.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxruntime as ort  # type: ignore[import-untyped,unused-ignore]
from onnx.external_data_helper import uses_external_data

from tta_agent.core.errors import GraphError
from tta_agent.core.types import Array
from tta_agent.models.ort_options import options, provider
from tta_agent.models.patched_graph import PatchedGraph

_CHANGES = (
    "processor",
    "core id",
    "apicid",
    "initial apicid",
    "cpu MHz",
    "bogomips",
    "physical id",
    "siblings",
)
_GRAPH, _TENSORS = "model.onnx", "tensors"
_OPTIMISED = "session.optimized_model_external_initializers"


class PackedGraph:
    """A graph that was optimised for this processor; some of its tensors can still be exchanged.

    Args:
        graph: to optimise.
        folder: for the optimised one; replaced where it is there.

    Attributes:
        names: tensors that can be exchanged.
        useful: most scales and shifts are among them.

    Raises:
        GraphError: it cannot be optimised.
        OSError: it cannot be written.
    """

    def __init__(self, graph: PatchedGraph, folder: Path) -> None:
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            _save(graph, draft)
            shutil.rmtree(folder, ignore_errors=True)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        self._model, self._folder, self._stamp = (folder / _GRAPH).read_bytes(), folder, _stamp(folder)
        self.names = _exchangeable(graph.model, self._model)
        self.useful = 2 * len(self.names) > len(_vectors(graph.model))

    def patched(self, tensors: Mapping[str, Array]) -> PatchedGraph | None:
        """The graph with other tensors; None where it does not have one of them as it was, or was touched."""
        if not tensors.keys() <= self.names or _stamp(self._folder) != self._stamp:
            return None
        return PatchedGraph(self._model, self._folder, tensors, optimised=True)


def machine() -> str:
    """Name of the processor's kind and ONNX Runtime's version: what is packed for one is nothing to another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no Linux
        lines = [platform.machine(), platform.processor()]
    told = sorted({line for line in lines if not line.startswith(_CHANGES)})
    return hashlib.sha256("\n".join([ort.__version__, *told]).encode()).hexdigest()[:12]


def _stamp(folder: Path) -> list[tuple[int, ...]]:
    paths = sorted(folder.glob("*"))
    return [(at.st_ino, at.st_size, at.st_mtime_ns) for at in (path.stat() for path in paths)]


def _vectors(graph: bytes) -> list[str]:
    """Tensors in the file that have one axis: most methods move scales and shifts."""
    items = onnx.ModelProto.FromString(graph).graph.initializer
    return [item.name for item in items if uses_external_data(item) and len(item.dims) == 1]


def _save(graph: PatchedGraph, folder: Path) -> None:
    settings = options(1, quiet=True)
    settings.optimized_model_filepath = str(folder / _GRAPH)
    settings.add_session_config_entry(f"{_OPTIMISED}_file_name", _TENSORS)
    settings.add_session_config_entry(f"{_OPTIMISED}_min_size_in_bytes", "1024")
    settings.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    try:
        ort.InferenceSession(graph.apply(settings), settings, providers=[provider("cpu")])
    except Exception as error:  # onnxruntime's errors have no common base
        raise GraphError(f"the graph cannot be optimised and saved: {error}") from error


def _exchangeable(before: bytes, after: bytes) -> frozenset[str]:
    """Tensors in the file that are used as often as before: none went into another one, or was packed."""
    old, new = (onnx.ModelProto.FromString(graph).graph for graph in (before, after))
    sizes, uses, were = {item.name: item.dims for item in old.initializer}, _uses(new), _uses(old)
    return frozenset(
        item.name
        for item in new.initializer
        if uses_external_data(item)
        and not any(entry.key.startswith("prepacked") for entry in item.external_data)
        and sizes.get(item.name) == item.dims
        and uses[item.name] == were[item.name]
    )


def _uses(graph: onnx.GraphProto) -> Counter[str]:
    return Counter(name for node in graph.node for name in node.input)
