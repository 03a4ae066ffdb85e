"""Files beside a graph that hold its large tensors: ONNX's external data, needed above 2 GiB, protobuf's limit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class DataFiles:
    """Data files of a graph.

    Attributes:
        folder: of the graph.
        names: of the files, relative to it.
    """

    folder: Path
    names: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum((self.folder / name).stat().st_size for name in self.names)
