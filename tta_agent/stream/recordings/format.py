"""File format of recordings: columns of a part, the index, and the values that both hold.

    recording.json      schema_version, model, classes, time range, preprocessing, count, sample, parts
    part-00000.parquet  id, time, key, domain?, label?, inputs (raw bytes), dtype, shape, served?, version?

Tensors are little-endian in C order, served logits float32, times seconds since the epoch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tta_agent.core import json_text
from tta_agent.core.errors import ConfigError
from tta_agent.core.types import Answer, Array

SCHEMA_VERSION = 1
INDEX = "recording.json"
COLUMNS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("time", pa.float64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("domain", pa.string()),
        pa.field("label", pa.int64()),
        pa.field("labels", pa.list_(pa.int64())),
        pa.field("inputs", pa.binary(), nullable=False),
        pa.field("dtype", pa.string(), nullable=False),
        pa.field("shape", pa.list_(pa.int32()), nullable=False),
        pa.field("served", pa.binary()),
        pa.field("version", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One inference: `x` as stored, `served` logits [C] or None, `label` a class, a set of labels or None."""

    id: str
    time_s: float
    key: str
    x: Array
    domain: str | None = None
    label: Answer | None = None
    served: Array | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Preprocessing of stored values: `(x * scale - mean) / std`, one mean and std a channel or in all."""

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ConfigError unless means and stds fit samples of this shape, channel first."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, shape[0]):
                raise ConfigError(
                    f"preprocessing {name} has {len(values)} values; samples of shape {list(shape)} "
                    f"have {shape[0]} channels"
                )
        if 0.0 in self.std:
            raise ConfigError(f"preprocessing std {list(self.std)} holds a zero")

    def apply(self, x: Array, sample_ndim: int) -> npt.NDArray[np.float32]:
        """Preprocess one sample or a batch, to float32; the channel is the first axis of a sample."""
        per_channel = (-1,) + (1,) * (sample_ndim - 1)
        out = np.array(x, dtype=np.float32)
        out *= np.float32(self.scale)
        out -= np.asarray(self.mean, dtype=np.float32).reshape(per_channel)
        out /= np.asarray(self.std, dtype=np.float32).reshape(per_channel)
        return out


@dataclass(frozen=True, slots=True)
class Index:
    """Content of `recording.json`. `parts` are (file name, rows)."""

    model: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing | None
    time_range_s: tuple[float, float] | None
    count: int
    dtype: str | None
    shape: tuple[int, ...] | None
    parts: tuple[tuple[str, int], ...]

    def dump(self) -> str:
        """Index as JSON text."""
        pre = self.preprocessing
        content = {
            "schema_version": SCHEMA_VERSION,
            "model": self.model,
            "classes": self.classes,
            "time_range_s": self.time_range_s,
            "preprocessing": pre and {"scale": pre.scale, "mean": pre.mean, "std": pre.std},
            "count": self.count,
            "sample": {"dtype": self.dtype, "shape": self.shape},
            "parts": [{"file": file, "rows": rows} for file, rows in self.parts],
        }
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def load(cls, path: Path) -> Index:
        """Read `recording.json`. Raises ConfigError where it is damaged or of another schema version."""
        try:
            content = json_text.parse_object(path.read_bytes())
            if content["schema_version"] == SCHEMA_VERSION:
                return cls._of(content)
        except (OSError, ValueError, LookupError, TypeError, ArithmeticError, ConfigError) as error:
            raise ConfigError(f"{path}: damaged: {type(error).__name__}: {_short(error)}") from error
        raise ConfigError(
            f"{path}: schema version {_short(content['schema_version'])}; this release reads {SCHEMA_VERSION}"
        )

    @classmethod
    def _of(cls, content: Mapping[str, Any]) -> Index:
        pre, sample, span = content["preprocessing"], content["sample"], content["time_range_s"]
        shape = None if sample["shape"] is None else tuple(map(_whole, sample["shape"]))
        preprocessing = None if pre is None else _preprocessing(pre)
        if preprocessing and shape:
            preprocessing.check(shape)
        parts = tuple((_plain_name(part["file"]), _whole(part["rows"])) for part in content["parts"])
        if content["count"] != sum(rows for _, rows in parts):
            raise ValueError(f"count is {_short(content['count'])}, its parts hold another number of rows")
        return cls(
            model=str(content["model"]),
            classes=tuple(map(str, content["classes"])),
            preprocessing=preprocessing,
            time_range_s=None if span is None else (float(span[0]), float(span[1])),
            count=_whole(content["count"]),
            dtype=None if sample["dtype"] is None else np.dtype(sample["dtype"]).name,
            shape=shape,
            parts=parts,
        )


def _preprocessing(content: Mapping[str, Any]) -> Preprocessing:
    found = Preprocessing(
        float(content["scale"]), tuple(map(float, content["mean"])), tuple(map(float, content["std"]))
    )
    if not np.isfinite([found.scale, *found.mean, *found.std]).all():
        raise ValueError("preprocessing is not finite")
    return found


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise ValueError(f"expected a whole number from 0, found {_short(value)}")
    return value


def _plain_name(value: Any) -> str:
    """A file of the folder itself: nobody's index leads anywhere else."""
    if not isinstance(value, str) or value != Path(value).name or "\0" in value:
        raise ValueError(f"expected the name of a file beside it, found {_short(value)}")
    return value


def _short(value: object) -> str:
    text = str(value) if isinstance(value, Exception) else repr(value)
    return text if len(text) <= 100 else f"{text[:100]} ..."


def to_columns(row: Row, x: Array) -> dict[str, Any]:
    """Columns of one row; `x` is its sample as an array."""
    served = None if row.served is None else np.asarray(row.served, dtype="<f4").tobytes()
    return {
        "id": row.id,
        "time": row.time_s,
        "key": row.key,
        "domain": row.domain,
        "label": row.label if not isinstance(row.label, tuple) else None,
        "labels": row.label if isinstance(row.label, tuple) else None,
        "inputs": x.astype(x.dtype.newbyteorder("<"), copy=False).tobytes(),
        "dtype": x.dtype.name,
        "shape": x.shape,
        "served": served,
        "version": row.version,
    }


def to_rows(batch: pa.RecordBatch) -> Iterator[Row]:
    """Rows of a piece of a part; their arrays are read-only."""
    for cells in batch.to_pylist():
        served, labels = cells["served"], cells.get("labels")  # recordings of before have no sets
        yield Row(
            id=cells["id"],
            time_s=cells["time"],
            key=cells["key"],
            x=_tensor(cells["inputs"], cells["dtype"]).reshape(cells["shape"]),
            domain=cells["domain"],
            label=cells["label"] if labels is None else tuple(labels),
            served=None if served is None else _tensor(served, "float32"),
            version=cells["version"],
        )


def _tensor(content: bytes, dtype: str) -> Array:
    return np.frombuffer(content, dtype=np.dtype(dtype).newbyteorder("<"))
