"""Seams of the rollout: rehearsals, webhooks, label requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from tta_agent.core.evidence import AnchorResult, GainEstimate
from tta_agent.core.types import Array, Record
from tta_agent.labels.requests import LabelRequest


class Rehearsal(Protocol):
    """Predictor of the gain, learnt by `tta-agent rehearse` for this model and adapter."""

    window: int

    def moved(self, module: nn.Module) -> Mapping[str, float]:
        """How far a candidate stands from the source."""

    def limits(self, gates: Mapping[str, Any]) -> Mapping[str, Mapping[str, float]]:
        """Options of plausibility gates by name: within them all useful candidates lay."""

    def expect(
        self,
        serving: Array,
        candidate: Array,
        source: Array,
        anchor: AnchorResult | None,
        moved: Mapping[str, float],
    ) -> GainEstimate:
        """Gain of the candidate over serving, from logits [N, C] in the order of arrival."""


class ApprovalHook(Protocol):
    """Webhook that confirms promotions; a call returns at once with the last known answer."""

    def confirm(self, explanation: Mapping[str, Any]) -> bool | None:
        """Yes, no, or not yet."""


class RollbackHook(Protocol):
    """Webhook that may ask for a rollback while a version bakes; a call returns at once."""

    def rollback(self, state: Mapping[str, Any]) -> bool:
        """Whether the version must go."""


class LabelRequests(Protocol):
    """Label requests within a budget."""

    def asked(self, id: str) -> bool:
        """Whether the label of this record was requested."""

    def state_dict(self) -> dict[str, Any]:
        """Budget, and the requests made."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""

    def consider(
        self, records: Sequence[Record], serving: Sequence[int], others: Sequence[int | None], now_s: float
    ) -> Sequence[LabelRequest]:
        """Records with the classes by both graphs, None where there is no other; the requests made."""
