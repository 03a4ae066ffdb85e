"""Messages between the stages of the pipeline, beside the routed records of `stream.router`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from tta_agent.core.types import Label, Positions, Record


@dataclass(frozen=True, slots=True)
class PolledBatch:
    """Reader to learner: the items of one poll, and the offsets after it."""

    items: list[Record | Label]
    positions: Positions

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(item.nbytes for item in self.items)


@dataclass(frozen=True, slots=True)
class CandidateProposal:
    """Learner to rollout: a frozen copy of the adapted model, and the records that it has learnt from.

    Attributes:
        module: inference mode; each sample's answer is its own.
        trained_until: offsets after the last record that it has learnt from.
        history: counts for the manifest.
        carrier: trace context of the round that made it.
        early: its statistics are of few records of a new regime: a later one may serve some points better.
    """

    module: nn.Module
    trained_until: Positions
    history: Mapping[str, Any]
    carrier: str | None
    early: bool = False


@dataclass(frozen=True, slots=True)
class CheckpointBarrier:
    """Learner to rollout: everything before this belongs to one checkpoint."""

    learner: Mapping[str, Any]
    positions: Positions
    carrier: str | None
