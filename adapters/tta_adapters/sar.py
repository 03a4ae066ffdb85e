"""SAR: sharpness-aware entropy minimisation on sure samples, with recovery from collapse.

Niu, Wu, Zhang, Wen, Chen, Zhao, Tan, "Towards Stable Test-Time Adaptation in Dynamic Wild World", ICLR 2023,
arXiv 2302.12400.

    1  g  = gradient of the mean H(p_k) over the K samples with H < E0 = 0.4 ln C (selector `entropy`)
    2  up: theta + rho g / (|g| + 1e-12), the norm over all parameters that learn
    3  g' = gradient there of the mean H over those of the K for which H < E0 still holds
    4  back to theta, exactly; a step of SGD with momentum along g'
    5  e <- 0.9 e + 0.1 (the loss of 3), its first value to begin with; e < e_m: all answers have become alike, back
       to the source

The deepest normalisation layers stay as they are (`tta_adapters.layers`).

Deviations. e_m is 0.2 at 1,000 classes and scaled with ln C like every threshold on entropy, 0.2 ln C / ln 1000
(`scaled=False`: 0.2 always). A recovery clears weights, momentum, e and averages; in the authors' code momentum
survives, and so does e, so that recoveries repeat. Where no one is left in 3 there is no step (there: momentum goes
on). The statistics that are averaged for serving are those of 1: theta is served, not what lies above it. Dropout
stays off.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tta_adapters.layers import Rule, outside
from tta_adapters.learner import Learner, Loss, weighted_mean
from tta_adapters.optimizers import Optimizer
from tta_agent.core.types import Selection, StepReport
from tta_agent.models.batchnorm import unseen
from tta_agent.scoring.sample_scores import entropy, max_entropy

KEPT = 0.9  # share of e that stays


class Sar(Learner):
    """Entropy minimisation towards flat minima, outside the deepest normalisation layers.

    Args:
        model: the source; it is copied.
        lr: learning rate; 1e-2 moves a small net on CIFAR-like data within some ten batches, where 1e-3, common in
            benchmarks, hardly does; the paper's 2.5e-4 (batches of 64) for ImageNet with ResNets, 1e-3 with ViT.
        optimizer: of the step; the paper's sgd.
        margin: E0 as a share of ln C, in (0, 1]; that of the selector `entropy`.
        rho: length of the step up, > 0.
        recovery: e_m at 1,000 classes, in nats; 0 never recovers.
        scaled: e_m is scaled with ln C.
        layers: which layers learn, see `tta_adapters.layers`.
        rest: arguments of `Learner` and `tta_agent.models.batchnorm.Estimate`.

    Raises:
        CannotAdapt: the model has no normalisation layer with scale and shift.
    """

    name = "sar"
    selectors: ClassVar = {"entropy": {"margin": 0.4}}

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 1e-2,
        optimizer: Optimizer = "sgd",
        margin: float = 0.4,
        rho: float = 0.05,
        recovery: float = 0.2,
        scaled: bool = True,
        layers: Rule = "last",
        **rest: Any,
    ) -> None:
        if not 0 < margin <= 1:
            raise ValueError(f"margin {margin} is not a share of ln C in (0, 1]")
        if rho <= 0 or recovery < 0:
            raise ValueError(f"expected rho > 0 and recovery >= 0, got {rho} and {recovery}")
        super().__init__(model, lr=lr, optimizer=optimizer, choose=outside(layers), **rest)
        self.margin, self.rho, self.recovery, self.scaled = margin, rho, recovery, scaled
        self.settle()

    def loss(self, x: Tensor, logits: Tensor, selection: Selection) -> Loss | None:
        """The weighted mean entropy of the selected that are sure enough; None where no one is."""
        left = self._sure(logits, selection)
        if not len(left.index):
            return None
        return weighted_mean(entropy(logits), left), len(left.index)

    def step(self, x: Tensor, logits: Tensor, selection: Selection) -> StepReport:
        """Up, and down from there. No one selected, or no one left up there: nothing at all is touched."""
        nothing = StepReport(seen=len(x), used=0, loss=None)
        if not len(selection.index):
            return nothing
        first = weighted_mean(entropy(logits), selection)
        if not self.backward(first, logits):
            return self.given_up(x)
        with unseen(self.norms.values()), self._above():
            there = self.forward(x).float()
            found = self.loss(x, there, selection)
            sound = found is None or self.backward(found[0], there)
        if found is None:
            return nothing
        if not (sound and self.absorb()):
            return self.given_up(x)
        if self._collapsed(found[0].item(), logits.shape[1]):
            self.reset()
            return StepReport(seen=len(x), used=0, loss=None, diagnostics={"recovered": 1.0})
        self.optimizer.step()
        if not self.sound():
            return self.start_over(x)
        return StepReport(seen=len(x), used=found[1], loss=found[0].item())

    def threshold(self, classes: int) -> float:
        """e_m in nats."""
        return self.recovery * (max_entropy(classes) / math.log(1000) if self.scaled else 1.0)

    def _sure(self, logits: Tensor, selection: Selection) -> Selection:
        sure = entropy(logits.detach())[selection.index] < self.margin * max_entropy(logits.shape[1])
        return Selection(selection.index[sure], selection.weight[sure])

    @contextlib.contextmanager
    def _above(self) -> Iterator[None]:
        """Weights at theta + rho g / |g|; afterwards theta again."""
        parameters = list(self.parameters.values())
        start = [p.detach().clone() for p in parameters]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        scale = self.rho / (torch.stack([g.norm() for g in gradients]).norm() + 1e-12)
        with torch.no_grad():
            for p, gradient in zip(parameters, gradients, strict=True):
                p.add_(gradient * scale)
        try:
            yield
        finally:  # also where memory runs out on the way
            with torch.no_grad():
                for p, value in zip(parameters, start, strict=True):
                    p.copy_(value)

    def _collapsed(self, loss: float, classes: int) -> bool:
        """Move e by the loss; whether it is below e_m."""
        e = self.memory.get("e")
        level = loss if e is None else KEPT * e.item() + (1 - KEPT) * loss
        self.memory["e"] = torch.tensor(level, dtype=torch.float64)
        return level < self.threshold(classes)
