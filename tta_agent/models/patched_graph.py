"""Graph without its large tensors: they stand in a file beside it, or are given when it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort  # type: ignore[import-untyped,unused-ignore]

from tta_agent.core.types import Array

_FOLDER = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True, slots=True)
class PatchedGraph:
    """A graph without its large tensors, for `ort_sessions.open_session`.

    Attributes:
        model: serialised graph.
        folder: of the file with its large tensors.
        tensors: in place of tensors of that file, by name.
        optimised: whether ONNX Runtime has optimised it already.
    """

    model: bytes
    folder: Path
    tensors: Mapping[str, Array]
    optimised: bool = False

    def apply(self, options: ort.SessionOptions) -> bytes:
        """The graph to open with the options, which learn of the tensors."""
        options.add_session_config_entry(_FOLDER, str(self.folder))
        if self.optimised:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if self.tensors:
            values = [ort.OrtValue.ortvalue_from_numpy(value) for value in self.tensors.values()]
            options.add_external_initializers(list(self.tensors), values)
        return self.model
