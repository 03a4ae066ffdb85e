"""TENT: minimise the entropy of the predictions by the scale and shift of the normalisation layers.

Wang, Shelhamer, Liu, Olshausen, Darrell, "Tent: Fully Test-Time Adaptation by Entropy Minimization",
ICLR 2021, arXiv 2006.10726.

    loss = sum_k w_k H(p_k) / K,   H(p) = -sum_c p_c ln p_c,   over the K selected samples

As in the paper: batch statistics in BatchNorm, only affine parameters move, one Adam step a batch, and the
answers returned are those from before the step. Deviations: dropout stays off (the original puts the whole net
into train mode); GroupNorm and LayerNorm are adapted too; a selector may leave samples out (the paper keeps
all: TTA_SELECT__SELECTORS=[]); the statistics are averaged for serving (`tta_agent.norms.TargetNorm`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tta_agent.errors import CannotAdapt
from tta_agent.norms import affine, convert
from tta_agent.scores import all_finite, entropy
from tta_agent.servable import served_names, snapshot
from tta_agent.types import Selection, StepReport


class Tent:
    """Entropy minimisation on normalisation layers.

    Args:
        model: the source; it is copied.
        lr: Adam's learning rate; the paper's 1e-3 for CIFAR-like data, 2.5e-4 for ImageNet-like.
        momentum: share of the newest batch in the statistics that are served, in (0, 1].

    Raises:
        CannotAdapt: the model has no normalisation layer with scale and shift.
    """

    def __init__(self, model: nn.Module, lr: float = 1e-3, momentum: float = 0.3) -> None:
        self.source = copy.deepcopy(model).eval().requires_grad_(False)
        self.model = copy.deepcopy(self.source)
        self.norms = convert(self.model, momentum)
        self.parameters = affine(self.model)
        if not self.parameters:
            raise CannotAdapt(
                "adapter 'tent' adapts the scale and shift of BatchNorm, GroupNorm or LayerNorm, "
                "and this model has no such layer; use TTA_ADAPT__METHOD=frozen to only monitor it"
            )
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=lr, betas=(0.9, 0.999))
        self._start = copy.deepcopy(self.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> logits [B, C] with graph."""
        with torch.enable_grad():
            return self.model(x)  # type: ignore[no-any-return]

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """The same logits, with no trace left."""
        return self.model(x)  # type: ignore[no-any-return]

    def step(self, x: Tensor, logits: Tensor, selection: Selection) -> StepReport:
        """One step down the weighted mean entropy of the selected samples."""
        used = len(selection.index)
        if not used:
            return StepReport(seen=len(x), used=0, loss=None)
        loss = (entropy(logits[selection.index]) * selection.weight).sum() / used
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if not self._healthy(loss):
            self.reset()
            return StepReport(len(x), 0, None, {"nonfinite": 1.0})
        self.optimizer.step()
        for layer in self.norms.values():
            layer.absorb()
        return StepReport(seen=len(x), used=used, loss=loss.item())

    def _healthy(self, loss: Tensor) -> bool:
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        return all_finite(loss) and all(all_finite(g) for g in gradients)

    def servable(self) -> nn.Module:
        """The source with the adapted affine parameters and the averaged statistics."""
        return snapshot(self.source, served_names(self.model))

    def reset(self) -> None:
        """Back to the source; Adam forgets its moments."""
        self.load_state_dict(self._start)

    def state_dict(self) -> dict[str, Any]:
        """Weights, averages and Adam's moments."""
        return copy.deepcopy({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.optimizer.zero_grad(set_to_none=True)
