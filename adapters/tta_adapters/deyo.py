"""DeYO: entropy minimisation on the samples whose answer depends on the object.

Lee, Jung, Lee, Park, Shin, Hwang, Yoon, "Entropy is not Enough for Test-Time Adaptation: From the Perspective of
Disentangled Factors", ICLR 2024, arXiv 2403.07366.

    loss = sum_k w_k H(p_k) / K,   over the K survivors,   w = exp(E0 - H) + exp(PLPD), detached

Who survives, and the weights, are the selector's (`deyo`): first H < 0.5 ln C, then PLPD > 0.2, the fall of the
answer's probability when the object is destroyed. The scale and shift of normalisation layers move, except the
deepest ones (`tta_adapters.layers`).

Not normalised and divided by the survivors, the step is the stronger the fewer survive: one sample makes a whole
step. `divide="batch"` divides by all B samples of the batch instead, so that thin evidence moves little.

Deviations: dropout stays off; the layer rule goes by structure (`layers="literal"` for the paper's names), and the
statistics are averaged for serving (`tta_agent.models.batchnorm.AdaptiveBatchNorm`). Where no sample passes the
filters there is no step at all, as in the paper.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from tta_adapters.layers import Rule, outside
from tta_adapters.learner import Learner, Loss, weighted_mean
from tta_agent.core.types import Selection
from tta_agent.scoring.sample_scores import entropy


class Deyo(Learner):
    """Weighted entropy minimisation outside the deepest normalisation layers.

    Args:
        model: the source; it is copied.
        lr: learning rate; 1e-3 (Adam, batches of 200) for CIFAR-like data; the paper's 2.5e-4 (SGD, batches of 64)
            for ImageNet with ResNets, 1e-3 with ViT.
        layers: which layers learn, see `tta_adapters.layers`.
        divide: the sum over the survivors by their number ("selected", the paper) or by the batch's ("batch").
        rest: arguments of `Learner` and `tta_agent.models.batchnorm.Estimate`.

    Raises:
        CannotAdapt: the model has no normalisation layer with scale and shift.
    """

    name = "deyo"
    of_selected = True
    selectors: ClassVar = {"deyo": {}}

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 1e-3,
        layers: Rule = "last",
        divide: Literal["selected", "batch"] = "selected",
        **rest: Any,
    ) -> None:
        if divide not in ("selected", "batch"):
            raise ValueError(f"divide {divide!r} is neither 'selected' nor 'batch'")
        self.divide = divide
        super().__init__(model, lr=lr, choose=outside(layers), **rest)
        self.settle()

    def loss(self, x: Tensor, logits: Tensor, selection: Selection) -> Loss:
        """The weighted mean entropy of the survivors."""
        used = len(selection.index)
        value = weighted_mean(entropy(logits), selection)
        return (value * used / len(x) if self.divide == "batch" else value), used
