"""Option values that make no sense are refused with the value and the range."""

from __future__ import annotations

import math


def between(name: str, value: float, low: float, high: float = math.inf) -> float:
    """`value`, if low <= value <= high.

    Raises:
        ValueError: it lies outside, or is no number.
    """
    if not low <= value <= high:
        raise ValueError(f"{name} {value} is not between {low:g} and {high:g}")
    return value
