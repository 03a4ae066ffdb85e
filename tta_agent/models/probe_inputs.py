"""Random inputs by which a model is asked, and tried."""

from __future__ import annotations

import numpy as np
from torch import nn

from tta_agent.core.types import Array


def random_inputs(module: nn.Module, n: int, shape: tuple[int, ...]) -> Array:
    """Inputs [n, *shape] float32, always the same: normally distributed, or whole numbers if the module takes such.

    A module that takes whole numbers says so by `input_range`, the least and the largest.
    """
    draw = np.random.default_rng(0)
    limits: tuple[int, int] | None = getattr(module, "input_range", None)
    if limits is None:
        return draw.standard_normal((n, *shape), dtype=np.float32)
    return draw.integers(*limits, (n, *shape), endpoint=True).astype(np.float32)
