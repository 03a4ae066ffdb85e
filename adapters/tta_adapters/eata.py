"""EATA: entropy minimisation on sure and new samples, held back where the source is sensitive.

Niu, Wu, Zhang, Chen, Zheng, Zhao, Tan, "Efficient Test-Time Model Adaptation without Forgetting", ICML 2022,
arXiv 2204.02610.

    loss = sum_k w_k H(p_k) / K + alpha sum_i F_i (theta_i - theta0_i)^2,   w = exp(E0 - H), detached

over the K samples that the selectors keep: `entropy` (H < E0 = 0.4 ln C, and the weights) and `redundancy` (answers
unlike the average answer). theta0 are the source's scale and shift, F their Fisher information on source data
(`tta_adapters.fisher`). Where no one is kept there is no step, and so no pull to the source either, as in the paper.

Without source data there is no F: this is then the paper's ETA, and the log says so once. The authors take F from
clean images of the test domain; here it comes from TTA_MODEL__SOURCE_DATA.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tta_adapters.fisher import information
from tta_adapters.learner import Learner, Loss, weighted_mean
from tta_agent.core.types import Selection, SourceInfo
from tta_agent.models.batchnorm import unseen
from tta_agent.scoring.sample_scores import entropy

log = logging.getLogger(__name__)


class Eata(Learner):
    """Weighted entropy minimisation on normalisation layers with an elastic anchor.

    Args:
        model: the source; it is copied.
        lr: learning rate; 1e-3 (Adam, batches of 200) for CIFAR-like data; the paper's 2.5e-4 (SGD, batches of 64)
            for ImageNet with ResNets, 1e-3 with ViT.
        fisher_alpha: strength of the anchor, >= 0; the paper's 1 for CIFAR-like data, 2000 for ImageNet. 0: ETA.
        fisher_samples: how many source samples F is estimated from, >= 1.
        origin: with source `inputs`; without them this is ETA.
        rest: arguments of `Learner` and `tta_agent.models.batchnorm.Estimate`.

    Raises:
        CannotAdapt: the model has no normalisation layer with scale and shift.
    """

    name = "eata"
    of_selected = True
    selectors: ClassVar = {"entropy": {"margin": 0.4, "weighted": True}, "redundancy": {"d": 0.4}}

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 1e-3,
        fisher_alpha: float = 1.0,
        fisher_samples: int = 2000,
        origin: SourceInfo | None = None,
        **rest: Any,
    ) -> None:
        if fisher_alpha < 0 or fisher_samples < 1:
            raise ValueError(
                f"expected fisher_alpha >= 0 and fisher_samples >= 1, got {fisher_alpha} and {fisher_samples}"
            )
        super().__init__(model, lr=lr, **rest)
        self.alpha = fisher_alpha
        self.fisher = self._fisher(origin, fisher_samples) if fisher_alpha else {}
        self.settle()

    def loss(self, x: Tensor, logits: Tensor, selection: Selection) -> Loss:
        """The weighted mean entropy of the kept samples, and the anchor."""
        value = weighted_mean(entropy(logits), selection)
        if self.fisher:
            value = value + self.alpha * self.distance()
        return value, len(selection.index)

    def distance(self) -> Tensor:
        """sum_i F_i (theta_i - theta0_i)^2, >= 0; high = far from the source where the source is sensitive."""
        moved = self.moved()
        pulls = [(f * (moved[name][0] - moved[name][1]) ** 2).sum() for name, f in self.fisher.items()]
        return torch.stack(pulls).sum()

    def _fisher(self, origin: SourceInfo | None, samples: int) -> dict[str, Tensor]:
        if origin is None or origin.inputs is None or not len(origin.inputs):
            log.info(
                "eata: no Fisher information without TTA_MODEL__SOURCE_DATA; this is ETA, without the anchor"
            )
            return {}
        order = torch.randperm(len(origin.inputs), generator=self.generator)[:samples]
        inputs = origin.inputs[order.to(origin.inputs.device)]
        with unseen(self.norms.values()):
            return information(self.model, self.parameters, inputs, origin.cache)
