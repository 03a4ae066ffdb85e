"""A wire format with the kind in the first byte: `I` id, blank, float32 values; `L` id, blank, class."""

from __future__ import annotations

import numpy as np

from tta_agent.core.errors import DecodeError
from tta_agent.core.types import Label, RawRecord, Record, Shape


class FirstByte:
    """Read only."""

    def __init__(self, classes_from: int = 0) -> None:
        self._classes_from = classes_from

    def recognises(self, raw: RawRecord) -> bool:
        return (raw.value or b"")[:1] in (b"I", b"L")

    def decode(self, raw: RawRecord, shape: Shape | None, classes: int | None) -> list[Record | Label]:
        kind, (name, _, rest) = (raw.value or b" ")[:1], (raw.value or b"")[1:].partition(b" ")
        id, time_s, where = name.decode(), raw.timestamp_ms / 1000, (raw.topic, raw.partition, raw.offset)
        if kind == b"L":
            return [Label(id, int(rest) - self._classes_from, time_s, *where)]
        if len(rest) != 4 * 64:
            raise DecodeError("toy_size", f"{len(rest)} bytes; expected 256, 8 x 8 of float32")
        x = np.frombuffer(rest, np.float32).reshape(1, 8, 8).copy()
        return [Record(id, time_s, x, None, None, id, None, *where, ("toy", id, "inference"))]
