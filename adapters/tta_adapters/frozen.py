"""The model as deployed: monitoring only, and the baseline of every table."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tta_agent.core.types import Selection, StepReport
from tta_agent.models.freeze import snapshot


class Frozen:
    """Answers in inference mode and never changes."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> logits [B, C]; no graph, for nothing will be learnt."""
        return self.model(x)  # type: ignore[no-any-return]

    predict = forward

    def step(self, x: Tensor, logits: Tensor, selection: Selection) -> StepReport:
        """Learns nothing."""
        return StepReport(seen=len(x), used=0, loss=None)

    def servable(self) -> nn.Module:
        """A copy of the source."""
        return snapshot(self.model, {})

    def moved(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Nothing."""
        return {}

    def reset(self) -> None:
        """Nothing to undo."""

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to load."""
