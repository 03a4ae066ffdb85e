"""Memory for stacked inputs that are looked at and forgotten, taken once: fresh memory costs more than the copy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tta_agent.core.types import Array

KEPT_BYTES = 32 << 20


class StackBuffer:
    """Stack of arrays of one shape; valid until the next one. Up to 32 MiB are kept."""

    def __init__(self) -> None:
        self._memory: Array = np.empty(0, np.float32)

    def stack(self, arrays: Sequence[Array]) -> Array:
        """The arrays [n, ...]; raises ValueError where their shapes differ."""
        shape = (len(arrays), *arrays[0].shape)
        size = len(arrays) * arrays[0].size
        if size * self._memory.itemsize > KEPT_BYTES:
            return np.stack(arrays)
        if size > self._memory.size:
            self._memory = np.empty(size, np.float32)
        return np.stack(arrays, out=self._memory[:size].reshape(shape))
