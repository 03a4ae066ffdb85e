"""Configuration of BatchNorm statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class StatsConfig:
    """Estimation of BatchNorm statistics, and their use.

    Attributes:
        momentum: least share of the newest batch in the averages that are served, in (0, 1].
        change: a batch that lies this many times further from the averages than batches lie from each other is
            the start of another domain: the averages follow it at once; >= 1, infinity never.
        prior: how many samples the anchor counts for when a batch is normalised; 0 is the batch's own
            statistics, as in most papers.
        anchor: with what a batch is mixed: the source's statistics, or the averages so far.
    """

    momentum: float = 0.1
    change: float = 3.0
    prior: float = 0.0
    anchor: Literal["source", "average"] = "source"

    def __post_init__(self) -> None:
        if not 0 < self.momentum <= 1:
            raise ValueError(f"momentum {self.momentum} is not a share in (0, 1]")
        if self.change < 1:
            raise ValueError(f"change {self.change} is not a ratio of at least 1")
        if self.prior < 0:
            raise ValueError(f"prior {self.prior} is a number of samples and cannot be negative")
        if self.anchor not in ("source", "average"):
            raise ValueError(f"anchor {self.anchor!r} is neither 'source' nor 'average'")
