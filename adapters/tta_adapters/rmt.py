"""RMT, Robust Mean Teacher: symmetric cross-entropy to a teacher, and features held to source prototypes.

Döbler, Marsden, Yang, "Robust Mean Teacher for Continual and Gradual Test-Time Adaptation", CVPR 2023, arXiv
2211.13081. With student s, teacher t, an augmented view x', features f (what enters the classifier), per batch:

    loss = mean_b [ 0.5 SCE(s(x), t(x)) + 0.5 SCE(s(x'), t(x)) ]
           + lambda_c contrastive(g(c(x)), g(f(x)), g(f(x'))) + lambda_r CE(s(x_src), y_src)
    after the step:  t <- ema t + (1 - ema) s

SCE is symmetric cross-entropy; c(x) is the source prototype nearest to f(x) by cosine; g is a small projection
that learns too. All weights learn. The answer is s(x) + t(x), the sum of logits from before the step.

Source data (TTA_MODEL__SOURCE_DATA, a few hundred samples are enough) is used three times. *Prototypes* are mean
features of the classes under batch statistics, by the given labels or else by the source's answers. *Warm-up*: one
pass of SCE(s, t) over them with the learning rate rising linearly; its end is the start that a reset comes back
to. *Replay*: a labelled source batch as large as the stream's, in every step. Prototypes and the warmed-up state
are kept in the cache by content.

Source-free, the rows of the classifier's weights stand for the prototypes (the direction in which the features of
a class are looked for); there is no warm-up and no replay.

Deviations: features are taken where they enter the classifier, so the head belongs to the student with any model.
A class without a sample has no prototype (in the reference NaN). Dropout stays off. A selector may leave samples
out (the paper keeps all); its weights count in the first term.
"""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tta_adapters.augment import Augment
from tta_adapters.cached import cached, digest
from tta_adapters.consistency import symmetric_cross_entropy
from tta_adapters.contrast import Projector, contrastive
from tta_adapters.ema import Taught
from tta_adapters.features import Split
from tta_adapters.learner import Loss, weighted_mean
from tta_adapters.ranges import between
from tta_adapters.sample import Sample, prototypes
from tta_agent.core.errors import CannotAdapt
from tta_agent.core.types import Selection, SourceInfo
from tta_agent.models.batchnorm import unseen
from tta_agent.scoring.sample_scores import all_finite

LONGEST = 50  # steps of warm-up where nothing is said


class Rmt(Taught):
    """Mean teacher with source prototypes.

    Args:
        model: the source; it is copied for student and teacher.
        origin: pixel facts for the augmentation; source data and labels, if there are any; cache folder.
        lr: learning rate; the paper's 1e-3 (Adam) for CIFAR, 0.01 (SGD) for ImageNet.
        contrast: lambda_c, >= 0.
        replay: lambda_r, >= 0; 1 where labelled source data is given, else 0.
        warmup_steps: how many, >= 0; one pass over the source samples and 50 steps at most where not said.
        source_batch: source samples at once, for prototypes and warm-up; the paper's 200 for CIFAR, 64 for ImageNet.
        temperature: tau of the contrastive loss, > 0.
        projection: size of the space that it is taken in.
        ema: share of the old teacher in the new one.
        rest: arguments of `Learner` and `tta_agent.models.batchnorm.Estimate`.

    Raises:
        CannotAdapt: no linear classifier; replay without labels; inputs that are not images.
    """

    name = "rmt"
    needs_images: ClassVar = True
    exclusive_classes: ClassVar = True  # prototypes are of one class each

    def __init__(
        self,
        model: nn.Module,
        *,
        origin: SourceInfo | None = None,
        lr: float = 1e-3,
        contrast: float = 1.0,
        replay: float | None = None,
        warmup_steps: int | None = None,
        source_batch: int = 64,
        temperature: float = 0.1,
        projection: int = 128,
        ema: float = 0.999,
        **rest: Any,
    ) -> None:
        self.contrast = between("contrast", contrast, 0)
        self.temperature = between("temperature", temperature, 1e-3)
        super().__init__(model, lr=lr, ema=ema, **rest)
        self.sample = Sample.of(origin, int(between("source_batch", source_batch, 2)))
        self.replay = self._replay(replay)
        self.augment = Augment(origin)
        self.split = Split(self.source)
        size = int(between("projection", projection, 1))
        self.device = self.split.weight.device
        self.projector = Projector(self.split.weight.shape[1], size, self.generator).to(self.device)
        self.parts["projector"] = self.projector
        self.optimizer.add_param_group({"params": list(self.projector.parameters())})
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None  # features, student's and teacher's logits
        self._begin(lr, warmup_steps, origin)
        self.settle()

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> sum of the student's and the teacher's logits [B, C], with the student's graph."""
        self._seen = None  # its graph goes before another is built
        with torch.enable_grad():
            features, student = self.split(self.model, x)
        teacher = self.teach(x).float()
        self._seen = features, student, teacher
        return student + teacher

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """The same logits, with no trace left."""
        return self.model(x).float() + self.teacher(x).float()  # type: ignore[no-any-return]

    def loss(self, x: Tensor, logits: Tensor, selection: Selection) -> Loss:
        """Self-training, contrast and replay."""
        seen, self._seen = self._seen, None
        if seen is None:
            raise RuntimeError("step without the forward pass that it belongs to")
        features, student, teacher = seen
        with unseen(self.norms.values()):
            features_v, student_v = self.split(self.model, self.augment(x, self.generator))
            rehearsed = self._rehearse(len(x)) if self.replay else 0.0
        each = symmetric_cross_entropy(student, teacher) + symmetric_cross_entropy(student_v, teacher)
        value = weighted_mean(0.5 * each, selection) + self.replay * rehearsed
        if self.contrast:
            index = selection.index
            value = value + self.contrast * self._apart(features[index], features_v[index])
        return value, len(selection.index)

    def healthy(self, loss: Tensor) -> bool:
        """The projection's gradients are finite too."""
        gradients = [p.grad for p in self.projector.parameters() if p.grad is not None]
        return all(all_finite(g) for g in gradients) and super().healthy(loss)

    def _apart(self, features: Tensor, features_v: Tensor) -> Tensor:
        """The contrastive loss of the samples, their views and their prototypes."""
        centres = F.normalize(self.memory["prototypes"].to(features), dim=1)
        nearest = (F.normalize(features.detach(), dim=1) @ centres.T).argmax(1)
        views = torch.stack((self.memory["prototypes"].to(features)[nearest], features, features_v))
        with torch.autocast(features.device.type, enabled=False):
            return contrastive(self.projector(views), self.temperature)

    def _rehearse(self, size: int) -> Tensor:
        """Cross-entropy of the student on as many labelled source samples."""
        assert self.sample is not None
        inputs, labels = self.sample.draw(size, self.generator, self.device)
        assert labels is not None
        return F.cross_entropy(self.model(inputs).float(), labels)

    def _replay(self, replay: float | None) -> float:
        labelled = self.sample is not None and self.sample.labels is not None
        if replay is None:
            return float(labelled)
        if replay and not labelled:
            raise CannotAdapt(
                f"adapter 'rmt' with replay {replay} learns from labelled source samples too: set "
                f"TTA_MODEL__SOURCE_DATA to an .npz with inputs and labels, or replay to 0"
            )
        return between("replay", replay, 0)

    def _begin(self, lr: float, steps: int | None, origin: SourceInfo | None) -> None:
        """Prototypes and warm-up, from the cache where they are there."""
        self.memory["prototypes"] = F.normalize(self.split.weight, dim=1)
        if self.sample is None:
            return
        if steps is None:
            steps = min(LONGEST, self.sample.batches)
        between("warmup_steps", steps, 0)
        content = (
            self.state_dict(),
            self.estimate,
            self.ema,
            steps,
            self.sample.size,
            self.sample.inputs,
            self.sample.labels,
        )
        state = cached(
            origin.cache if origin else None, self.name, digest(*content), lambda: self._prepared(lr, steps)
        )
        self.load_state_dict(state)

    def _prepared(self, lr: float, steps: int) -> dict[str, Any]:
        assert self.sample is not None
        self.memory["prototypes"] = prototypes(self.model, self.split, self.sample, self.device)
        passes = (self.sample.shuffled(self.generator) for _ in itertools.count())
        for step, index in enumerate(itertools.islice(itertools.chain.from_iterable(passes), steps), start=1):
            inputs = self.sample.inputs[index.to(self.sample.inputs.device)].to(self.device)
            self._warm_up(inputs, lr * step / steps)
        return self.state_dict()

    def _warm_up(self, x: Tensor, lr: float) -> None:
        """One step of the student towards the teacher, and of the teacher after it."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with unseen(self.norms.values()), torch.enable_grad():
            with torch.no_grad():
                target = self.teacher(x)
            loss = symmetric_cross_entropy(self.model(x), target).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if not self.healthy(loss):
            raise CannotAdapt(
                "adapter 'rmt': the loss on TTA_MODEL__SOURCE_DATA is not finite; look for NaN in it"
            )
        self.optimizer.step()
        self.finish()
