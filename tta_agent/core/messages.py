"""What travels between the rooms of the agent, beside the sorted piles of `intake`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from tta_agent.core.types import Label, Positions, Record


@dataclass(frozen=True, slots=True)
class PolledBatch:
    """Reader to learner: what one poll brought, and where to read on after it."""

    items: list[Record | Label]
    positions: Positions

    @property
    def nbytes(self) -> int:
        """What it holds in memory."""
        return sum(item.nbytes for item in self.items if isinstance(item, Record))


@dataclass(frozen=True, slots=True)
class CandidateProposal:
    """Learner to decider: a frozen copy of the adapted model, and what it has learnt from.

    Attributes:
        module: inference mode; each sample's answer is its own.
        born: offsets after the last record that it has learnt from.
        history: counts for the manifest.
        carrier: trace context of the round that made it.
    """

    module: nn.Module
    born: Positions
    history: Mapping[str, Any]
    carrier: str | None


@dataclass(frozen=True, slots=True)
class CheckpointBarrier:
    """Learner to decider: everything before this belongs to one checkpoint."""

    learner: Mapping[str, Any]
    positions: Positions
    carrier: str | None
