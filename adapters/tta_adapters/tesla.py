"""TeSLA: learn from an averaged teacher, on easy views and on those that an adversary makes hard for it.

Tomar, Vray, Bozorgtabar, Thiran, "TeSLA: Test-Time Self-Learning With Automatic Adversarial Augmentation",
CVPR 2023, arXiv 2303.09870. With the mean y of the teacher's probabilities over the plain and `views` weak views
(perhaps refined, `tta_adapters.tesla_queues`), the student's probabilities p on one of these views, chosen for the
whole batch, and p' on a hard one (`tta_adapters.tesla_adversary`):

    loss = -mean_i sum_c p_ic ln y_ic  +  sum_c pbar_c ln pbar_c  +  kl mean_i KL(y_i || p'_i),   pbar = mean_i p_i

flipped cross-entropy (the student's probabilities weigh the teacher's logarithms), less the entropy of the mean
answer, and distillation. Everything but the classifier learns. After the step teacher <- ema teacher + (1 - ema)
student, and the teacher answers, with running statistics: so `forward` answers too (here from before the step), and
what is served is the very same rule. The passes from which something is learnt use the statistics of their batch.

Deviations. The teacher's running statistics are those of `tta_agent.models.batchnorm.AdaptiveBatchNorm` and come from
the plain view, which is what is served; in the original seven passes a batch, weak and hard ones too, push them. No
epsilon: y is clamped at the smallest float, logarithms of softmax are exact (the original takes ln 0). Weak views are
cropped out of the input, not of a resized one. The drift starts from the teacher's pass over the chosen view and not
from one more. The original's policy starts anew with every epoch; a stream has none: `policy_reset` says after how
many batches, and 0 never. Dropout stays off. TeSLA-s (source statistics) is left out. Who was not selected counts in
batch statistics and in nothing else. docs/methods/tesla.md has the deviations of the operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tta_adapters import tesla_queues as queues
from tta_adapters.crops import random_crops
from tta_adapters.ema import Taught
from tta_adapters.features import Split
from tta_adapters.learner import Loss, Parameters, marginal_entropy, weighted_mean
from tta_adapters.pixels import Pixels
from tta_adapters.ranges import between
from tta_adapters.tesla_adversary import Adversary, channel_means
from tta_adapters.tesla_policy import Policy, Rotation
from tta_agent.core.types import Selection, SourceInfo, StepReport
from tta_agent.models.batchnorm import AdaptiveBatchNorm


class SwitchNorm(AdaptiveBatchNorm):
    """A BatchNorm that answers with the batch or, while `settled`, as it is served."""

    settled = False

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, ...] -> the same shape."""
        if not self.settled:
            return super().forward(x)
        return F.batch_norm(x, *self.running(), self.weight, self.bias, False, 0.0, self.eps)


class Tesla(Taught):
    """Self-learning with a mean teacher and adversarial augmentation.

    Args:
        model: the source; it is copied, twice. It takes images.
        lr: learning rate; the paper's 1e-3 (Adam) for CIFAR-like data, 1e-3 (SGD) for ImageNet-like.
        views: weak views besides the plain one, >= 0.
        ema: share of the old teacher in the new one, 0 .. 1.
        queue: remembered samples a class; 0 for no refinement.
        neighbours: who vote, >= 1.
        policy: learn the augmentation; False draws pairs and magnitudes uniformly.
        rotation: of the augmentation: corrected (up to 30 degrees), or literal.
        kl: weight of the distillation, >= 0.
        drift: weight of the drift in the choice of pairs, >= 0.
        policy_reset: batches after which the policy starts anew (not its optimiser); 0 for never.
        origin: pixel facts of the model.
        rest: arguments of `Learner`, but not `marginal`, and of `tta_agent.models.batchnorm.Estimate`.

    Raises:
        CannotAdapt: no classifier, or nothing before it, or (at the first step) inputs that are no images.
        ValueError: an option outside its range.
    """

    name = "tesla"
    needs_images: ClassVar = True
    exclusive_classes: ClassVar = True  # its queues are of one class each
    needs = "all weights before the classifier"
    answers_after_step = True

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 1e-3,
        views: int = 4,
        ema: float = 0.99,
        queue: int = 0,
        neighbours: int = 1,
        policy: bool = True,
        rotation: Rotation = "corrected",
        kl: float = 1.0,
        drift: float = 1.0,
        policy_reset: int = 0,
        origin: SourceInfo | None = None,
        **rest: Any,
    ) -> None:
        if rest.get("marginal"):
            raise ValueError(
                f"marginal {rest['marginal']}: the loss of tesla has this term already, with weight 1"
            )
        if rotation not in ("corrected", "literal"):
            raise ValueError(f"rotation {rotation!r} is neither 'corrected' nor 'literal'")
        self._views = int(between("views", views, 0))
        self._neighbours = int(between("neighbours", neighbours, 1))
        self._kl = between("kl", kl, 0)
        self._period = int(between("policy_reset", policy_reset, 0))
        self._split, self._learned = Split(model), policy
        super().__init__(model, lr=lr, ema=ema, choose=self._body, **rest)
        self._settle(True)
        weight = self._split.weight
        self.policy = Policy(rotation).to(weight.device)
        self.adversary = Adversary(self.policy, Pixels(origin), between("drift", drift, 0))
        self.parts |= {"policy": self.policy, "policy_optimizer": self.adversary.optimizer}
        self.memory["batches"] = torch.zeros((), dtype=torch.int64)
        self._queues: dict[str, Tensor] = {}  # with this batch in them, which stays if the step is taken
        if between("queue", queue, 0):
            self.memory |= queues.empty(len(weight), queue, weight.shape[1], weight.device)
        self.settle()

    def norm(self, layer: _BatchNorm) -> SwitchNorm:
        """The learning form of a BatchNorm."""
        return SwitchNorm(layer, self.estimate)

    def _body(self, model: nn.Module) -> Parameters:
        """Everything but the classifier."""
        return {n: p for n, p in model.named_parameters() if n.rpartition(".")[0] != self._split.name}

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> the teacher's logits [B, C], each sample's its own; no graph: `step` makes its own passes."""
        return self.teacher(x)  # type: ignore[no-any-return]

    predict = forward

    def step(self, x: Tensor, logits: Tensor, selection: Selection) -> StepReport:
        """One guarded step of all three; from a policy that is not finite nothing could be drawn."""
        if len(selection.index) and not self.sound():
            return self.start_over(x)
        return super().step(x, logits, selection)

    def loss(self, x: Tensor, logits: Tensor, selection: Selection) -> Loss:
        """The student's, over the selected samples; the adversary learns on the way."""
        looks = [x, *(random_crops(x, self.generator) for _ in range(self._views))]
        pick = int(torch.randint(len(looks), (), generator=self.generator))
        with self._learning():
            target, features, before = self._targets(looks, pick)
            if self._learned:
                self.adversary.learn(self.teacher, looks[pick], before, selection, self.generator)
        hard = self.adversary.hard(looks[pick], self.generator, learned=self._learned)
        target = self._refined(target, features, selection)
        return self._student(looks[pick], hard, target, selection), len(selection.index)

    @torch.no_grad()
    def _targets(self, looks: list[Tensor], pick: int) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Teacher's mean probabilities [B, C] and features [B, F]; channel means of the picked view."""
        features, probabilities = [], []
        before: list[Tensor] = []
        for i, look in enumerate(looks):
            noted = channel_means(self.teacher) if i == pick else nullcontext(before)
            # only a pass with gradients enabled is remembered by the layers: the plain view's
            with torch.set_grad_enabled(i == 0), noted as before:
                f, z = self._split(self.teacher, look)
            features.append(f)
            probabilities.append(z.softmax(1))
        return torch.stack(probabilities).mean(0), torch.stack(features).mean(0), before

    @torch.no_grad()
    def _refined(self, target: Tensor, features: Tensor, selection: Selection) -> Tensor:
        """Probabilities [B, C] that the neighbours agree on."""
        if "features" not in self.memory:
            return target
        self._queues = {name: self.memory[name].clone() for name in queues.NAMES}
        queues.push(self._queues, features[selection.index], target[selection.index])
        return queues.vote(self._queues, features, self._neighbours)

    def _student(self, look: Tensor, hard: Tensor, target: Tensor, selection: Selection) -> Tensor:
        logits = self.model(look).float()
        flipped = -(logits.softmax(1) * target.clamp_min(torch.finfo(target.dtype).tiny).log()).sum(1)
        loss = weighted_mean(flipped, selection) - marginal_entropy(logits[selection.index])
        log_p = self.model(hard).float().log_softmax(1)
        return loss + self._kl * weighted_mean(F.kl_div(log_p, target, reduction="none").sum(1), selection)

    @property
    def layers(self) -> Iterable[AdaptiveBatchNorm]:
        """The teacher's, by the plain view; nothing asks for the student's."""
        return self.taught

    def finish(self) -> None:
        """The teacher follows, the queues move on, and the policy may start anew."""
        super().finish()
        self.memory |= self._queues
        self.memory["batches"] += 1
        if self._period and int(self.memory["batches"]) % self._period == 0:
            self.policy.forget()

    @contextmanager
    def _learning(self) -> Iterator[None]:
        """The teacher under batch statistics."""
        self._settle(False)
        try:
            yield
        finally:
            self._settle(True)

    def _settle(self, settled: bool) -> None:
        for layer in self.taught:
            if isinstance(layer, SwitchNorm):
                layer.settled = settled
