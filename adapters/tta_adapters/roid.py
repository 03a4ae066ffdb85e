"""ROID: weighted soft likelihood ratios on sure and unusual samples, held near the source, corrected by the prior.

Marsden, Döbler, Yang, "Universal Test-time Adaptation through Weight Ensembling, Diversity Weighting, and Prior
Correction", WACV 2024, arXiv 2306.00650. With p_b = softmax(z_b) of B samples, m the running mean of answers
(uniform at first), and scaled(v) = (v - min v) / (max v - min v) over the batch:

    div_b  = scaled(1 - cos(m, p_b)),  cert_b = scaled(-H(p_b)),  w_b = exp(div_b cert_b / tau)
    kept   : div_b >= mean div
    loss   = (1/B) sum_kept w_b [ SLR(p_b) + lambda SCE(s(view(x_b)), z_b) ]
    SLR(p) = -sum_c p_c ln(p_c / (1 - p_c) + 1e-5),  p clipped at 0.99
    after the step:  theta <- 0.99 theta + 0.01 theta_source,  m <- 0.9 m + 0.1 mean_b p_b  (over all samples)

The answer is corrected by the batch's prior q = mean_b p_b, smoothed by s = max(1/B, 1/C) / max q:

    q' = (q + s) / (1 + s C),   corrected logits = z + ln q'   ("probability": probabilities are multiplied)

Deviations: the reference multiplies the logits themselves by q', which turns the order of negative logits round;
that is `prior_correction="logits"`. Where all values of a batch are equal, scaled(v) is 0 instead of 0/0: a single
sample teaches with weight 1. The sum is divided by the samples of the batch, not by a configured batch size.
Dropout stays off. A selector may leave samples out (the paper keeps all).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tta_adapters.augment import Augment
from tta_adapters.consistency import symmetric_cross_entropy
from tta_adapters.ema import pull
from tta_adapters.learner import Learner, Loss
from tta_adapters.ranges import between
from tta_agent.core.task import per_record
from tta_agent.core.types import Selection, SourceInfo
from tta_agent.models.batchnorm import unseen
from tta_agent.scoring.sample_scores import entropy

Correction = Literal["probability", "logits", "none"]
CLIP = 0.99  # probabilities above it have no gradient of their own
KEEP = 0.9  # of the mean answer m


class Roid(Learner):
    """Certainty and diversity weights on normalisation layers.

    Args:
        model: the source; it is copied.
        origin: pixel facts for the augmentation.
        lr: learning rate; the paper's 1e-3 (Adam) for CIFAR, 2.5e-4 (SGD) for ImageNet.
        temperature: tau of the weights, > 0.
        consistency: lambda, weight of the loss on the augmented view, >= 0; at 0 there is no second pass.
        ensembling: share of the adapted weights after each step, the rest is the source's, 0 .. 1.
        prior_correction: of the answers: probability, logits (as the reference has it) or none.
        rest: arguments of `Learner` and `tta_agent.models.batchnorm.Estimate`.

    Raises:
        CannotAdapt: no normalisation layer with scale and shift, or inputs that are not images.
    """

    name = "roid"

    def __init__(
        self,
        model: nn.Module,
        *,
        origin: SourceInfo | None = None,
        lr: float = 1e-3,
        temperature: float = 1 / 3,
        consistency: float = 1.0,
        ensembling: float = 0.99,
        prior_correction: Correction = "probability",
        **rest: Any,
    ) -> None:
        self.temperature = between("temperature", temperature, 1e-3)
        self.consistency = between("consistency", consistency, 0)
        self.ensembling = between("ensembling", ensembling, 0, 1)
        if prior_correction not in ("probability", "logits", "none"):
            raise ValueError(
                f"prior_correction {prior_correction!r} is not 'probability', 'logits' or 'none'"
            )
        self.correction = prior_correction
        super().__init__(model, lr=lr, **rest)
        self.augment = Augment(origin, soften=False, padding="reflect")
        self._raw: Tensor | None = None  # logits of this batch, before the correction
        self._mean: Tensor | None = None  # m after this batch
        self.settle()

    @property
    def needs_images(self) -> bool:
        """Whether its loss is also of an augmented view."""
        return self.consistency > 0

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> corrected logits [B, C] with graph; the layers remember the batch."""
        self._raw = None  # its graph goes before another is built
        self._raw = super().forward(x).float()
        return corrected(self._raw, self.correction)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """The same logits, with no trace left."""
        return corrected(super().predict(x).float(), self.correction)

    def loss(self, x: Tensor, logits: Tensor, selection: Selection) -> Loss | None:
        """From the uncorrected logits of `forward`; None where no selected sample is unusual."""
        raw, self._raw = self._raw, None
        if raw is None:
            raise RuntimeError("step without the forward pass that it belongs to")
        chosen = raw.new_zeros(len(x)).index_copy_(0, selection.index, selection.weight.to(raw.dtype))
        p = raw.detach().softmax(1)
        mean = self.memory.get("mean", torch.full_like(p[0], 1 / p.shape[1])).to(p)
        weight, kept = weights(raw.detach(), mean, self.temperature)
        index = torch.nonzero(kept & (chosen > 0)).flatten()
        if not len(index):
            return None
        self._mean = KEEP * mean + (1 - KEEP) * p.mean(0)
        each = likelihood_ratio(raw[index])
        if self.consistency:
            with unseen(self.norms.values()):
                view = super().forward(self.augment(x[index], self.generator)).float()
            each = each + self.consistency * symmetric_cross_entropy(view, raw[index])
        return (each * weight[index] * chosen[index]).sum() / len(x), len(index)

    def finish(self) -> None:
        """Back towards the source, and on with the mean answer."""
        pairs = self.moved().values()
        pull((p for p, _ in pairs), (source for _, source in pairs), self.ensembling)
        if self._mean is not None:
            self.memory["mean"] = self._mean


@torch.no_grad()
def weights(logits: Tensor, mean: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Weight [B], 1 .. exp(1 / temperature), and who is kept [B], from logits [B, C] and the mean answer [C]."""
    diversity = scaled(
        1 - F.cosine_similarity(mean.flatten().unsqueeze(0), logits.softmax(1).flatten(1), dim=1)
    )
    certainty = scaled(-entropy(logits))
    return torch.exp(diversity * certainty / temperature), diversity >= diversity.mean()


def scaled(values: Tensor) -> Tensor:
    """Linearly to 0 .. 1 over the batch; 0 where all are equal."""
    low, high = values.aminmax()
    return (values - low) / torch.where(high > low, high - low, torch.ones_like(high))


def likelihood_ratio(logits: Tensor) -> Tensor:
    """SLR, [B, C] -> [B]; high = unsure."""
    p = logits.softmax(1).clamp(max=CLIP)
    return per_record(-(p * torch.log(p / (1 - p) + 1e-5)).sum(1))  # type: ignore[no-any-return]


def corrected(logits: Tensor, how: Correction) -> Tensor:
    """Logits [B, C] by the smoothed prior of the batch, which carries no gradient."""
    if how == "none":
        return logits
    batch, classes = logits.shape[:2]
    prior = logits.detach().softmax(1).mean(0)
    smooth = max(1 / batch, 1 / classes) / prior.amax(0)
    smoothed = (prior + smooth) / (1 + smooth * classes)
    return logits * smoothed if how == "logits" else logits + smoothed.log()
