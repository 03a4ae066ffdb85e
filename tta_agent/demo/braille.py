"""Curves and areas in Braille characters: two by four dots in each cell of a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tta_agent.core.types import Array
from tta_agent.reports.words import known

BLANK = 0x2800  # the character without dots; the dots are bits above it
BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])


@dataclass(frozen=True, slots=True)
class Grid:
    """Cells for times 0..span_s from left to right and values low..high from bottom to top.

    What is drawn comes as rows of characters, empty strings where a cell has no dot.
    """

    columns: int
    rows: int
    span_s: float
    low: float
    high: float

    def curve(self, points: Iterable[tuple[float, Any]]) -> list[list[str]]:
        """A line through the points."""
        levels = self._levels(points)
        y = np.arange(4 * self.rows)[:, None]
        before = np.where(np.isnan(np.roll(levels, 1)), levels, np.roll(levels, 1))
        before[0] = levels[0]
        return self._cells((y >= np.minimum(before, levels)) & (y <= np.maximum(before, levels)))

    def area(self, points: Iterable[tuple[float, Any]]) -> list[list[str]]:
        """What lies below the points, dotted: the texture tells it from a curve without colour."""
        levels = self._levels(points)
        y, x = np.indices((4 * self.rows, len(levels)))
        return self._cells((y >= levels) & ((x + y) % 2 == 0))

    def _levels(self, points: Iterable[tuple[float, Any]]) -> Array:
        # row of dots, from the top, for each column of dots; NaN where nothing is known (yet)
        seen = [(t, float(value)) for t, value in points if known(value)]
        if not seen:
            return np.full(2 * self.columns, np.nan)
        times, values = np.array(seen).T
        at = np.linspace(0, self.span_s, 2 * self.columns)
        values = np.interp(at, times, values, left=np.nan, right=np.nan)
        return np.asarray(np.round((self.high - values) / (self.high - self.low) * (4 * self.rows - 1)))

    def _cells(self, dots: Array) -> list[list[str]]:
        bits = (dots.reshape(self.rows, 4, -1, 2) * BITS[None, :, None, :]).sum(axis=(1, 3))
        return [[chr(BLANK + int(cell)) if cell else "" for cell in row] for row in bits]
