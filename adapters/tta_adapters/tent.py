"""TENT: minimise the entropy of the predictions by the scale and shift of the normalisation layers.

Wang, Shelhamer, Liu, Olshausen, Darrell, "Tent: Fully Test-Time Adaptation by Entropy Minimization",
ICLR 2021, arXiv 2006.10726.

    loss = sum_k w_k H(p_k) / K,   H(p) = -sum_c p_c ln p_c,   over the K selected samples

As in the paper: batch statistics in BatchNorm, only affine parameters move, one Adam step a batch, and the
answers returned are those from before the step. Deviations: dropout stays off (the original puts the whole net
into train mode); GroupNorm and LayerNorm are adapted too; unsure samples are left out (the paper keeps all:
TTA_SELECT__SELECTORS=[]); the statistics are averaged for serving (`tta_agent.models.batchnorm.AdaptiveBatchNorm`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from tta_adapters.learner import Learner, Loss, weighted_mean
from tta_agent.core.types import Selection
from tta_agent.scoring.sample_scores import entropy


class Tent(Learner):
    """Entropy minimisation on normalisation layers.

    Args:
        model: the source; it is copied.
        lr: learning rate; the paper's 1e-3 (Adam) for CIFAR-like data, 2.5e-4 (SGD) for ImageNet-like.
        rest: arguments of `Learner` and `tta_agent.models.batchnorm.Estimate`.

    Raises:
        CannotAdapt: the model has no normalisation layer with scale and shift.
    """

    name = "tent"
    of_selected = True
    selectors: ClassVar[Mapping[str, Mapping[str, Any]]] = {"entropy": {}}

    def __init__(self, model: nn.Module, *, lr: float = 1e-3, **rest: Any) -> None:
        super().__init__(model, lr=lr, **rest)
        self.settle()

    def loss(self, x: Tensor, logits: Tensor, selection: Selection) -> Loss:
        """The weighted mean entropy of the selected samples."""
        return weighted_mean(entropy(logits), selection), len(selection.index)
