"""Cadence of candidates and checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass

SETTLED = 64  # independent records of the new regime, by which most statistics serve within a point of what they will
LASTING = 256  # those by which all do: of a lost contrast 64 serve up to 20 points less, 192 up to 3


@dataclass(frozen=True, slots=True)
class Cadence:
    """Rounds between two proposals, and between two checkpoints; records of one round."""

    candidate_every: int
    checkpoint_every: int
    batch_size: int

    def candidate_due(self, rounds: int, *, soon: bool, before: int = 0) -> bool:
        """Whether the copy has learnt for long enough since the last proposal.

        The first round after a change is of records of both regimes, or mixes the first statistics with the source's.
        So it may have settled after that one and as many as make `SETTLED` records; where classes come in runs
        it takes longer (`Adaptation.settled`).

        Args:
            rounds: since the last proposal, or since a change of regime.
            soon: for a first proposal.
            before: rounds of this regime that the last proposal had learnt, 0: none; the next one learns from twice
                as many, or the usual number more.
        """
        wanted = 1 + math.ceil(SETTLED / self.batch_size) if soon else before
        return rounds >= min(wanted or self.candidate_every, self.candidate_every)

    def is_early(self, rounds: int) -> bool:
        """Whether so many rounds of a regime are too few for a candidate that should last."""
        return (rounds - 1) * self.batch_size < LASTING
