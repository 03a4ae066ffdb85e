"""Statistics of the target in every BatchNorm, nothing else: the baseline that every method must beat.

Schneider et al., "Improving robustness against common corruptions by covariate shift adaptation",
NeurIPS 2020, arXiv 2006.16971; Nado et al., arXiv 2006.10963.

Deviation: the papers score each batch with its own statistics (so does `forward`); the served form averages
them over the stream, see `tta_agent.norms.TargetNorm`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tta_agent.errors import CannotAdapt
from tta_agent.norms import census, convert
from tta_agent.scores import all_finite
from tta_agent.servable import served_names, snapshot
from tta_agent.types import Selection, StepReport


class Norm:
    """Re-estimates BatchNorm statistics on the stream.

    Args:
        model: the source; it is copied.
        momentum: share of the newest batch in the statistics that are served, in (0, 1].

    Raises:
        CannotAdapt: the model has no BatchNorm with running statistics.
    """

    def __init__(self, model: nn.Module, momentum: float = 0.3) -> None:
        self.source = copy.deepcopy(model).eval().requires_grad_(False)
        self.model = copy.deepcopy(self.source)
        self.norms = convert(self.model, momentum)
        if not self.norms:
            raise CannotAdapt(
                f"adapter 'norm' re-estimates BatchNorm statistics, and this model has none "
                f"(it has: {census(model) or 'no normalisation layer'}); "
                f"use TTA_ADAPT__METHOD=tent for GroupNorm and LayerNorm, or frozen to only monitor"
            )
        self._start = copy.deepcopy(self.model.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> logits [B, C] under the statistics of this batch."""
        with torch.enable_grad():  # the layers remember a batch only on a learning pass
            return self.model(x)  # type: ignore[no-any-return]

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """The same logits without remembering the batch."""
        return self.model(x)  # type: ignore[no-any-return]

    def step(self, x: Tensor, logits: Tensor, selection: Selection) -> StepReport:
        """Absorb the statistics of the batch that `forward` has just seen."""
        used = len(selection.index)
        if used and not all_finite(logits):
            self.reset()
            return StepReport(len(x), 0, None, {"nonfinite": 1.0})
        for layer in self.norms.values() if used else ():
            layer.absorb()
        return StepReport(seen=len(x), used=used, loss=None)

    def servable(self) -> nn.Module:
        """The source with the averaged statistics as running statistics."""
        return snapshot(self.source, served_names(self.model))

    def reset(self) -> None:
        """Back to the source's statistics."""
        self.model.load_state_dict(self._start)

    def state_dict(self) -> dict[str, Any]:
        """The averages."""
        return {"model": copy.deepcopy(self.model.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.model.load_state_dict(state["model"])
