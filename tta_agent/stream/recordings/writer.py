"""Writer of recordings: parts as they fill, the index last and atomically."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tta_agent.core.atomic_files import write_atomic
from tta_agent.core.errors import ConfigError
from tta_agent.core.os_errors import naming
from tta_agent.core.types import Array
from tta_agent.stream.recordings.format import COLUMNS, INDEX, Index, Preprocessing, Row, to_columns

_PART_BYTES = 64 * 2**20  # a part is closed at this size too: large images must not fill the memory


class RecordingWriter:
    """Writer of one recording, which is complete once the `with` block has ended without an exception.

    Args:
        folder: made where missing; ConfigError where it holds a recording, finished or not.
        model: name of the model that answered.
        classes: their names or their number; None where unknown.
        preprocessing: from the stored values to what the model takes; None where they are the same.
        rows_per_part: rows of a Parquet file; large samples close a part earlier, at 64 MiB.
    """

    def __init__(
        self,
        folder: Path,
        *,
        model: str,
        classes: int | Sequence[str] | None,
        preprocessing: Preprocessing | None = None,
        rows_per_part: int = 4096,
    ) -> None:
        self._folder = Path(folder)
        _refuse_used(self._folder)
        self._made = not self._folder.exists()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._model = model
        self._classes = _class_names(classes)
        self._preprocessing = preprocessing
        self._rows_per_part = rows_per_part
        self._buffer: list[dict[str, Any]] = []
        self._buffer_bytes = 0
        self._parts: list[tuple[str, int]] = []
        self._sample: tuple[str, tuple[int, ...]] | None = None
        self._range_s: tuple[float, float] | None = None

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        """Write what is buffered and the index; nothing after an exception."""
        if kind is not None:  # no index: a folder with parts stays recognisably incomplete
            if self._made and not self._parts:
                self._folder.rmdir()
            return
        self._write_part()
        self._write_index()

    def add(self, row: Row) -> None:
        """Append one row. Raises ConfigError where its sample differs in shape or dtype from the first."""
        x = np.asarray(row.x)
        self._check_sample(row.id, x)
        first_s, last_s = self._range_s or (row.time_s, row.time_s)
        self._range_s = (min(first_s, row.time_s), max(last_s, row.time_s))
        self._buffer.append(to_columns(row, x))
        self._buffer_bytes += x.nbytes
        if len(self._buffer) >= self._rows_per_part or self._buffer_bytes >= _PART_BYTES:
            self._write_part()

    def _check_sample(self, row_id: str, x: Array) -> None:
        seen = (x.dtype.name, x.shape)
        if self._sample is None:
            if x.dtype.kind not in "biuf" or x.ndim == 0:
                raise ConfigError(f"row {row_id!r}: cannot record a sample of {_text(*seen)}")
            if self._preprocessing is not None:
                self._preprocessing.check(x.shape)
            self._sample = seen
        elif seen != self._sample:
            raise ConfigError(
                f"row {row_id!r} is {_text(*seen)}; this recording holds {_text(*self._sample)}"
            )

    def _write_part(self) -> None:
        if not self._buffer:
            return
        name = f"part-{len(self._parts):05d}.parquet"
        path = self._folder / name
        with naming(path), path.open("xb") as file:
            pq.write_table(
                pa.Table.from_pylist(self._buffer, schema=COLUMNS),
                file,
                compression="zstd",
                use_dictionary=["domain", "dtype"],
                write_statistics=False,  # the least and greatest image mean nothing and are stored whole
                write_page_checksum=True,
            )
            os.fsync(file.fileno())
        self._parts.append((name, len(self._buffer)))
        self._buffer, self._buffer_bytes = [], 0

    def _write_index(self) -> None:
        dtype, shape = self._sample or (None, None)
        count = sum(rows for _, rows in self._parts)
        index = Index(
            self._model,
            self._classes,
            self._preprocessing,
            self._range_s,
            count,
            dtype,
            shape,
            tuple(self._parts),
        )
        write_atomic(self._folder / INDEX, index.dump().encode())


def _refuse_used(folder: Path) -> None:
    if (folder / INDEX).exists():
        raise ConfigError(f"{folder}: already holds a recording; name another folder")
    if any(folder.glob("part-*.parquet")):
        raise ConfigError(f"{folder}: holds an incomplete recording; remove it or name another folder")


def _class_names(classes: int | Sequence[str] | None) -> tuple[str, ...]:
    return tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes or ())


def _text(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} {list(shape)}"
