"""Cadence of candidates and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

SETTLING = 2  # after a shift the next candidate comes after this part of the usual rounds


@dataclass(frozen=True, slots=True)
class Cadence:
    """Rounds between two proposals, and between two checkpoints."""

    candidate_every: int
    checkpoint_every: int

    def candidate_due(self, rounds: int, *, soon: bool) -> bool:
        """Whether the copy has learnt for long enough since the last proposal, or, if `soon`, has settled."""
        return rounds >= (max(1, self.candidate_every // SETTLING) if soon else self.candidate_every)
