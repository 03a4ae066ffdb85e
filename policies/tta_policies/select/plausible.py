"""Leave out inputs far outside of what source and stream show: bursts of 1e4, a wild pixel, another encoding.

Each record has five numbers: minimum, maximum, mean, standard deviation, and roughness (mean distance of neighbours
along the last axis). Of the latest `records` records there are their medians m and deviations s = 1.4826 MAD, which
fewer than half of them cannot carry away. With the usual range lo .. hi (median minimum and maximum) of width R, a
record is plausible if

    min >= lo - max(2 R, k s),   max <= hi + max(2 R, k s),   lo - max(R/2, k s) <= mean <= hi + max(R/2, k s)
    deviation <= max(R, m + k s),   roughness <= max(2 R, m + k s)

So a record within lo .. hi passes, however noisy, dark or inverted. Source samples (TTA_MODEL__SOURCE_DATA) widen the
range by their own, and pixels by 0 .. 1 as the model takes them: that is, while the stream's range lies in there and
is at least 1/32 of it. (Fewer than 8 of 256 levels are no image, and these inputs no pixels.)

Records that were left out count among the latest, too: a lasting change has become usual once it makes half of them.
A minority that always lies far outside never teaches. The first 32 records have no range but the source's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tta_agent.core.types import Array, Selection, SourceInfo, View
from tta_agent.scoring.input_lines import some_lines

SIGMA = 1.4826  # MADs of a normal distribution in its standard deviation
LEAST = 32  # records that make a range: 16 of them are seldom bad where 30 % are
IMAGE = 1 / 32  # of the range of pixels
CACHED = 1 << 21  # bytes of inputs that are looked at together: several passes over them stay in the cache
LOW, HIGH, MEAN, DEVIATION, ROUGHNESS = range(5)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Least and largest plausible value of each of the five numbers, [5] each."""

    lower: Array
    upper: Array

    def hold(self, rows: Array) -> Array:
        """Which rows [B, 5] lie within, [B]; NaN does not."""
        return np.asarray(((rows >= self.lower) & (rows <= self.upper)).all(1))


class Plausible:
    """Inputs within the usual range, and some way beyond.

    Args:
        origin: pixel facts and source data of the model.
        records: of which the numbers are remembered, >= 64.
        reach: factor of all distances in R, > 0.
        spread: k, > 0.
    """

    def __init__(
        self, origin: SourceInfo | None = None, records: int = 256, reach: float = 1.0, spread: float = 10.0
    ) -> None:
        if records < 2 * LEAST:
            raise ValueError(f"records {records} are too few for a range; expected at least {2 * LEAST}")
        for name, value in (("reach", reach), ("spread", spread)):
            if not value > 0:
                raise ValueError(f"{name} {value} is the factor of a distance and must be above 0")
        self.records, self.reach, self.spread = records, reach, spread
        self._pixels = pixel_range(origin or SourceInfo())
        self._source = _source_rows(origin)
        self._rows = np.empty((0, 5))  # of the latest records
        self._bounds = self._bounds_by(self._rows)

    def select(self, view: View) -> Selection:
        """Index of the plausible by `view.x`, each with weight 1; the others are counted as `implausible`."""
        rows = statistics(view.x)
        self._rows = np.concatenate([self._rows, _finite(rows)])[-self.records :]
        self._bounds = self._bounds_by(self._rows)
        index = torch.from_numpy(np.flatnonzero(self._bounds.hold(rows))).to(view.x.device)
        weight = torch.ones(len(index), device=view.x.device)
        return Selection(index, weight, {"implausible": len(rows) - len(index)})

    def look(self, x: Tensor) -> Tensor:
        """Which of the inputs [B, ...] are plausible, [B]; nothing is remembered."""
        rows, bounds = statistics(x), self._bounds
        if len(self._rows) < LEAST:  # the very first records are a part of what is known
            bounds = self._bounds_by(np.concatenate([self._rows, _finite(rows)]))
        return torch.from_numpy(bounds.hold(rows)).to(x.device)

    def _bounds_by(self, rows: Array) -> Bounds:
        known = [some for some in (rows, self._source) if len(some) >= LEAST]
        medians = np.reshape([np.median(some, axis=0) for some in known], (-1, 5))
        apart = [np.median(np.abs(some - m), axis=0) for some, m in zip(known, medians, strict=True)]
        beyond = self.spread * SIGMA * np.reshape(apart, (-1, 5)).max(axis=0, initial=0.0)
        lows, highs = (medians[:, side].tolist() for side in (LOW, HIGH))
        if not known or _inside(lows[0], highs[0], self._pixels):
            lows, highs = [*lows, self._pixels[0]], [*highs, self._pixels[1]]
        return self._bounds_of(min(lows), max(highs), medians.max(axis=0, initial=-np.inf), beyond)

    def _bounds_of(self, low: float, high: float, most: Array, beyond: Array) -> Bounds:
        wide = self.reach * (high - low)
        far, near = np.maximum(2 * wide, beyond), np.maximum(wide / 2, beyond)
        lower, upper = np.full(5, -np.inf), np.full(5, np.inf)
        lower[[LOW, MEAN]] = low - far[LOW], low - near[MEAN]
        upper[[HIGH, MEAN]] = high + far[HIGH], high + near[MEAN]
        upper[DEVIATION] = max(wide, most[DEVIATION] + beyond[DEVIATION])
        upper[ROUGHNESS] = max(2 * wide, most[ROUGHNESS] + beyond[ROUGHNESS])
        return Bounds(lower, upper)

    def reset(self) -> None:
        """Forget the stream."""
        self._rows = np.empty((0, 5))
        self._bounds = self._bounds_by(self._rows)

    def state_dict(self) -> dict[str, Any]:
        """The numbers of the latest records, [n, 5]."""
        return {"rows": torch.from_numpy(self._rows.copy())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._rows = state["rows"].numpy().copy()
        self._bounds = self._bounds_by(self._rows)


@torch.no_grad()
def statistics(x: Tensor) -> Array:
    """Minimum, maximum, mean, standard deviation and roughness of inputs [B, ...], [B, 5] float64.

    The last three of large inputs are those of evenly spread lines: a single value shows in the extremes.
    """
    together = max(1, CACHED // max(x[0].nbytes, 1)) if len(x) else 1
    return np.concatenate([_statistics(part) for part in torch.split(x, together)])


def _statistics(x: Tensor) -> Array:
    flat = x.flatten(1).float()
    lines = some_lines(x).float().contiguous()
    steps = lines.diff(dim=2).flatten(1)
    rough = steps.abs_().sum(1) / max(steps.shape[1], 1)
    some = lines.flatten(1)
    mean = some.mean(1, keepdim=True)
    # torch's `std` along an axis takes ten times as long
    deviation = torch.linalg.vector_norm(some - mean, dim=1) / math.sqrt(some.shape[1])
    numbers = (flat.amin(1), flat.amax(1), mean[:, 0], deviation, rough)
    return np.asarray(torch.stack(numbers, dim=1).double().cpu())


def pixel_range(origin: SourceInfo) -> tuple[float, float]:
    """Least and largest input that a pixel in 0 .. 1 can become."""
    pairs = list(zip(origin.mean, origin.std, strict=True))
    return min(-mean / std for mean, std in pairs), max((1 - mean) / std for mean, std in pairs)


def _inside(low: float, high: float, pixels: tuple[float, float]) -> bool:
    """Whether a stream's usual range may be one of pixels."""
    width = pixels[1] - pixels[0]
    slack = 1e-3 * width
    return low >= pixels[0] - slack and high <= pixels[1] + slack and high - low >= IMAGE * width


def _source_rows(origin: SourceInfo | None) -> Array:
    """Of the source samples, if there are any; [n, 5]."""
    if origin is None or origin.inputs is None or not len(origin.inputs):
        return np.empty((0, 5))
    return np.concatenate([statistics(part) for part in torch.split(origin.inputs, 64)])


def _finite(rows: Array) -> Array:
    return rows[np.isfinite(rows).all(1)]
