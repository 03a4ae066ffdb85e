"""Who the decision listens to or tells, as seen from it: rehearsals, webhooks, the label desk, the watch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from tta_agent.core.evidence import AnchorResult, GainEstimate
from tta_agent.core.types import Array, Record, Version
from tta_agent.drift.detector import DataRegime
from tta_agent.models.ort_sessions import Session


class Rehearsal(Protocol):
    """What `tta-agent rehearse` has learnt about this model and adapter."""

    window: int

    def moved(self, module: nn.Module) -> Mapping[str, float]:
        """How far a candidate stands from the source."""

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
    """A webhook that is asked; it never makes anybody wait."""

    def confirm(self, explanation: Mapping[str, Any]) -> bool | None:
        """Yes, no, or not yet."""


class RollbackHook(Protocol):
    """A webhook that is asked while a version bakes; it never makes anybody wait."""

    def rollback(self, state: Mapping[str, Any]) -> bool:
        """Whether the version must go."""


class LabelRequests(Protocol):
    """Asks for labels; remembers what was asked."""

    def state_dict(self) -> dict[str, Any]:
        """Budget, and what was asked for."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""

    def consider(
        self, records: Sequence[Record], serving: Sequence[int], others: Sequence[int | None], now_s: float
    ) -> object:
        """Records with the classes that both graphs name; None where there is no other."""


class ServingView(Protocol):
    """Watches over what has come into service."""

    def ended(self) -> DataRegime | None:
        """The kind of records that has ended, where others have begun to arrive with what was heard last."""

    def fits(self, domain: DataRegime) -> bool:
        """Whether records of that kind arrive now."""

    def rival(self) -> Session | None:
        """Of what would be gone back to, while what serves bakes."""

    def begin(self, baseline: Version, expires_s: float | None) -> None:
        """A swap has happened; `baseline` is what would be gone back to."""
