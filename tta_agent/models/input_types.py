"""Samples in the type of numbers that a graph or a server takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tta_agent.core.types import Array

FLOATS: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
TAKEN: Mapping[str, type[np.generic]] = {
    **FLOATS, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}  # fmt: skip


def as_type(x: Array, dtype: np.dtype[Any] | type[np.generic]) -> Array:
    """Samples in a type: for whole numbers rounded, and limited to what a byte holds where it is one."""
    dtype = np.dtype(dtype)
    if dtype.kind not in "iu":
        return np.ascontiguousarray(x, dtype=dtype)
    limits, whole = np.iinfo(dtype), np.rint(x)
    whole = np.clip(whole, limits.min, limits.max) if limits.bits == 8 else whole
    return np.ascontiguousarray(whole, dtype=dtype)
