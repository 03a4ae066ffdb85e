"""CoTTA: a student learns what its averaged teacher says of many views, and forgets back to the source at random.

Wang, Fink, Van Gool, Dai, "Continual Test-Time Domain Adaptation", CVPR 2022, arXiv 2203.13591. With student s,
teacher t and the frozen source a ("anchor"), all under batch statistics, per batch:

    target = mean over `views` augmented views of the logits t(view(x))   if mean_b max_c softmax(a(x))_bc < AP
             t(x)                                                         otherwise
    loss   = sum_k w_k H(target_k, s(x)_k) / K,  H(q, p) = -sum_c q_c ln p_c;   SCE for ImageNet (`symmetric`)
    after the step:  t <- ema t + (1 - ema) s,  then each element of s is its source value with probability RST

The answer is the target, from before the step. All parameters called weight or bias learn.

Deviations: the views are only made where they are used (the reference for CIFAR always makes them); then the
teacher sees the batch once more as it is, for the statistics that are served, if it has BatchNorm. Dropout stays
off. A selector may leave samples out (the paper keeps all). Served is the teacher on the sample itself, without
the mean over views.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tta_adapters.augment import Augment, local
from tta_adapters.consistency import cross_entropy, symmetric_cross_entropy
from tta_adapters.ema import Taught
from tta_adapters.learner import Loss, Parameters, weighted_mean
from tta_adapters.ranges import between
from tta_agent.core.types import Selection, SourceInfo
from tta_agent.scoring.sample_scores import confidence


class Cotta(Taught):
    """Augmentation-averaged teacher and stochastic restoration.

    Args:
        model: the source; it is copied for student and teacher.
        origin: pixel facts for the augmentations.
        lr: learning rate; the paper's 1e-3 (Adam) for CIFAR, 0.01 (SGD) for ImageNet.
        threshold: AP; below this mean confidence of the source the views are averaged, 0 .. 1. The paper's 0.92
            for CIFAR-10, 0.72 for CIFAR-100, 0.1 for ImageNet: about the 5 % quantile on source data less 0.05.
        restore: RST, probability that an element is given its source value after a step; the paper's 0.01 for
            CIFAR, 0.001 for ImageNet.
        views: how many are averaged, >= 1.
        symmetric: SCE instead of cross-entropy, as the paper has it for ImageNet.
        ema: share of the old teacher in the new one.
        rest: arguments of `Learner` and `tta_agent.models.batchnorm.Estimate`.

    Raises:
        CannotAdapt: no parameter called weight or bias, or inputs that are not images.
    """

    name = "cotta"
    needs_images: ClassVar = True

    def __init__(
        self,
        model: nn.Module,
        *,
        origin: SourceInfo | None = None,
        lr: float = 1e-3,
        threshold: float = 0.92,
        restore: float = 0.01,
        views: int = 32,
        symmetric: bool = False,
        ema: float = 0.999,
        **rest: Any,
    ) -> None:
        self.threshold, self.restore = (
            between("threshold", threshold, 0, 1),
            between("restore", restore, 0, 1),
        )
        self.views = int(between("views", views, 1))
        super().__init__(model, lr=lr, ema=ema, **{"choose": weights_and_biases, **rest})
        self.anchor = copy.deepcopy(self.teacher)
        source = dict(self.source.named_parameters())
        for name, parameter in self.anchor.named_parameters():
            parameter.data = source[name].data  # the same memory
        self.augment = Augment(origin)
        self.difference = symmetric_cross_entropy if symmetric else cross_entropy
        self._drawn = self.generator.get_state()  # where the generator stands after the views of this batch
        self._averaged = False
        self._student: Tensor | None = None  # its logits on this batch
        self.settle()

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> the target [B, C], without graph: the student is asked when it learns."""
        random = self._random()
        self._averaged = self._unsure(x)
        target = self._mean_of_views(x, random) if self._averaged else self.teach(x)
        self._drawn = random.get_state()
        return target

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """The same logits, from the same views."""
        if self._unsure(x):
            return self._mean_of_views(x, self._random())
        return self.teacher(x)  # type: ignore[no-any-return]

    def loss(self, x: Tensor, logits: Tensor, selection: Selection) -> Loss:
        """From the student's answers on the batch to the target."""
        if self._averaged and self.taught:
            self.teach(x)
        self._student = super().forward(x).float()
        return weighted_mean(self.difference(logits.detach(), self._student), selection), len(selection.index)

    def backward(self, value: Tensor, logits: Tensor) -> bool:
        """The marginal term is the student's: the target has no graph."""
        student, self._student = self._student, None
        return super().backward(value, logits if student is None else student)

    def finish(self) -> None:
        """The teacher follows, then the student is partly restored."""
        super().finish()
        self.generator.set_state(self._drawn)
        pairs = list(self.moved().values())
        random = local(self.generator, pairs[0][0].device)
        for parameter, source in pairs:
            mask = torch.empty_like(source, dtype=torch.bool).bernoulli_(self.restore, generator=random)
            parameter.data.copy_(torch.where(mask, source, parameter.data))

    @torch.no_grad()
    def _unsure(self, x: Tensor) -> bool:
        """The source's mean confidence on the batch, under its statistics, is below the threshold."""
        return bool(confidence(self.anchor(x).float()).mean() < self.threshold)

    @torch.no_grad()
    def _mean_of_views(self, x: Tensor, random: torch.Generator) -> Tensor:
        """Mean logits [B, C] of the teacher."""
        return torch.stack([self.teacher(self.augment(x, random)).float() for _ in range(self.views)]).mean(0)

    def _random(self) -> torch.Generator:
        """A twin of the generator: it moves on only when a step is taken."""
        return torch.Generator().set_state(self.generator.get_state())


def weights_and_biases(model: nn.Module) -> Parameters:
    """All parameters called so; not, for instance, tokens and position embeddings."""
    return {n: p for n, p in model.named_parameters() if n.rpartition(".")[2] in ("weight", "bias")}
