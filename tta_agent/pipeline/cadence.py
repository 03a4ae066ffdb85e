"""Cadence of candidates and checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass

SETTLED = 64  # independent records of the new regime, by which its statistics serve within a point of what they will


@dataclass(frozen=True, slots=True)
class Cadence:
    """Rounds between two proposals, and between two checkpoints; records of one round."""

    candidate_every: int
    checkpoint_every: int
    batch_size: int

    def candidate_due(self, rounds: int, *, soon: bool) -> bool:
        """Whether the copy has learnt for long enough since the last proposal; `soon`: for a first one.

        The first round after a change is of records of both regimes, or mixes the first statistics with the source's.
        So it may have settled after that one and as many as make `SETTLED` records; where classes come in runs
        it takes longer (`Adaptation.settled`).
        """
        settled = 1 + math.ceil(SETTLED / self.batch_size)
        return rounds >= (min(settled, self.candidate_every) if soon else self.candidate_every)
