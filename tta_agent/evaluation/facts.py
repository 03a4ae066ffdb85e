"""Facts about a candidate that its records do not change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tta_agent.core.evidence import AnchorResult


@dataclass(frozen=True, slots=True)
class CandidateFacts:
    """Facts about a candidate that are known before the first record and do not change.

    Attributes:
        alpha: share of the error budget that it may spend.
        parity: agreement of graph and torch on fixed inputs.
        size_ratio, latency_ratio: bytes and seconds over those of serving.
        moved: how far its tensors stand from the source's, by name of the distance.
        health: of the optimiser.
        anchor: answers on the labelled anchor set.
        null: thresholds of gates by A/A runs.
        early: it was made of few records of a new regime.
    """

    alpha: float
    parity: tuple[float, float] = (1.0, 0.0)
    size_ratio: float = 1.0
    latency_ratio: float = 1.0
    moved: Mapping[str, float] = field(default_factory=dict)
    health: Mapping[str, float] = field(default_factory=dict)
    anchor: AnchorResult | None = None
    null: Mapping[str, float] = field(default_factory=dict)
    early: bool = False
