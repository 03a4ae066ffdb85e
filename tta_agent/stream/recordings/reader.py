"""Reader of recordings: folders of inference records, written once, for replay, reports and benchmarks.

All samples of a recording have one shape and one dtype. `recording.json` is written last and atomically: a
folder with parts but without it was interrupted. `stream.recordings.format` describes the format.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tta_agent.core.errors import ConfigError, nearest
from tta_agent.core.types import Answer, Array
from tta_agent.stream.recordings.format import INDEX, Index, Preprocessing, Row, to_rows
from tta_agent.stream.recordings.writer import RecordingWriter

__all__ = ["Preprocessing", "Recording", "RecordingWriter", "Row", "import_npz"]

Progress: TypeAlias = Callable[[int, int], None]  # rows done, rows in all

_READ_ROWS = 256


@dataclass(frozen=True, slots=True)
class Recording:
    """A complete recording. Iteration decodes a few hundred rows at a time, in the order in which they were added."""

    folder: Path
    index: Index

    @classmethod
    def open(cls, folder: Path) -> Recording:
        """Open a recording. Raises ConfigError where it is missing, incomplete, damaged or of another format."""
        folder = Path(folder)
        if not (folder / INDEX).is_file():
            if any(folder.glob("part-*.parquet")):
                raise ConfigError(
                    f"{folder}: an incomplete recording: it has parts but no {INDEX}; record it again"
                )
            raise ConfigError(f"{folder}: not a recording: no {INDEX} there")
        return cls(folder, Index.load(folder / INDEX))

    def __len__(self) -> int:
        """Rows in all."""
        return self.index.count

    def __iter__(self) -> Iterator[Row]:
        """Rows in the order they were added. Raises ConfigError at a damaged part, naming it."""
        for name, rows in self.index.parts:
            yield from _read_part(self.folder / name, rows)

    def model_input(self, rows: Row | Sequence[Row] | Array) -> npt.NDArray[np.float32]:
        """Input of the model: [C, ...] of a row or an array of one sample, [B, C, ...] of several."""
        if isinstance(rows, Row):
            x = rows.x
        else:
            x = rows if isinstance(rows, np.ndarray) else np.stack([row.x for row in rows])
        if self.index.preprocessing is None:
            return np.array(x, dtype=np.float32)
        return self.index.preprocessing.apply(x, len(self.index.shape or ()))


def import_npz(
    npz_path: Path,
    folder: Path,
    *,
    model: str,
    classes: int | Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    rate_per_s: float = 100.0,
    progress: Progress | None = None,
) -> int:
    """Make a recording from arrays `inputs` [N, ...] and, where there are, `labels` [N] and `domain` [N].

    Labels [N, L] tell for each of L labels whether it holds: they become sets.

    Ids are zero-padded row numbers; times start at 0 and go up by 1 / rate. Classes that are not given are
    numbered up to the greatest label. Returns the number of rows.
    """
    if not rate_per_s > 0:
        raise ConfigError(f"rate_per_s is {rate_per_s}; expected more than 0")
    inputs, labels, domain = _npz_arrays(Path(npz_path))
    total = len(inputs)
    if classes is None and labels is not None and total:
        classes = int(labels.max()) + 1 if labels.ndim == 1 else labels.shape[1]
    digits = len(str(max(total - 1, 0)))
    with RecordingWriter(folder, model=model, classes=classes, preprocessing=preprocessing) as writer:
        for i in range(total):
            name = f"{i:0{digits}d}"
            label = None if labels is None else _label(labels[i])
            where = None if domain is None else str(domain[i])
            writer.add(Row(name, i / rate_per_s, name, inputs[i], domain=where, label=label))
            if progress is not None and ((i + 1) % _READ_ROWS == 0 or i + 1 == total):
                progress(i + 1, total)
    return total


def _label(cell: Array) -> Answer:
    """A class, or the set of the labels that hold."""
    return int(cell) if cell.ndim == 0 else tuple(np.flatnonzero(cell).tolist())


def _npz_arrays(path: Path) -> tuple[Array, Array | None, Array | None]:
    """Inputs, labels and domain, of equal lengths."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ("inputs", "labels", "domain") if name in archive.files}
            held = archive.files
    except (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: not a readable .npz file: {error}") from error
    if "inputs" not in arrays:
        raise ConfigError(f"{path}: no array 'inputs' [N, C, H, W]; {nearest('inputs', held)}")
    total = len(arrays["inputs"]) if arrays["inputs"].ndim else 0
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) != total:
            raise ConfigError(
                f"{path}: 'inputs' has {total} rows, {name!r} has {len(array) if array.ndim else 'no'}"
            )
    if "labels" in arrays and arrays["labels"].dtype.kind not in "iu":
        raise ConfigError(f"{path}: 'labels' is {arrays['labels'].dtype}; expected integers")
    return arrays["inputs"], arrays.get("labels"), arrays.get("domain")


def _read_part(path: Path, expected_rows: int) -> Iterator[Row]:
    rows = 0
    try:
        if path.resolve().parent != path.parent.resolve():
            raise ValueError("a link that leads out of the folder")
        with pq.ParquetFile(path, page_checksum_verification=True) as part:
            for batch in part.iter_batches(batch_size=_READ_ROWS):
                rows += batch.num_rows
                yield from to_rows(batch)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ConfigError(f"{path}: damaged part: {error}") from error
    if rows != expected_rows:
        raise ConfigError(f"{path}: damaged part: {rows} rows, {INDEX} says {expected_rows}")
