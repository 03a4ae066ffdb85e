"""A student that learns and a teacher that follows it slowly, answers, and is served.

Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017, arXiv 1703.01780:

    teacher <- ema teacher + (1 - ema) student,   over parameters, after every step

The teacher normalises with batch statistics too, and its layers average them for serving
(`tta_agent.models.batchnorm.AdaptiveBatchNorm`); they are absorbed when a step is taken.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from tta_adapters.learner import Learner, Parameters
from tta_adapters.ranges import between
from tta_agent.models.batchnorm import AdaptiveBatchNorm
from tta_agent.models.freeze import served_names, snapshot


def pull(parameters: Iterable[Tensor], towards: Iterable[Tensor], keep: float) -> None:
    """parameters <- keep parameters + (1 - keep) towards, in place."""
    here = [p.detach() for p in parameters]
    follow = get_ema_multi_avg_fn(keep)  # type: ignore[no-untyped-call]
    follow(here, [p.detach() for p in towards], 0)


def everything(model: nn.Module) -> Parameters:
    """All parameters, by name."""
    return dict(model.named_parameters())


class Taught(Learner):
    """A learner with a teacher.

    Args:
        model: the source; it is copied for student and teacher.
        ema: share of the old teacher in the new one, 0 .. 1.
        rest: arguments of `Learner` and `tta_agent.models.batchnorm.Estimate`.
    """

    needs = "all weights"

    def __init__(self, model: nn.Module, *, ema: float = 0.999, **rest: Any) -> None:
        self.ema = between("ema", ema, 0, 1)
        super().__init__(model, **{"choose": everything, **rest})
        self.teacher = copy.deepcopy(self.model).requires_grad_(False)
        self.parts["teacher"] = self.teacher

    @property
    def taught(self) -> list[AdaptiveBatchNorm]:
        """The teacher's layers that average statistics."""
        return [module for module in self.teacher.modules() if isinstance(module, AdaptiveBatchNorm)]

    def teach(self, x: Tensor) -> Tensor:
        """The teacher's logits [B, C]; its layers remember the batch. No graph: nothing in it learns."""
        with torch.enable_grad():
            return self.teacher(x)  # type: ignore[no-any-return]

    @property
    def layers(self) -> Iterable[AdaptiveBatchNorm]:
        """Those of both: what the student has seen that way is not finite either."""
        return [*self.norms.values(), *self.taught]

    def _learning_tensors(self) -> Iterator[Tensor]:
        yield from super()._learning_tensors()
        yield from self.teacher.parameters()

    def finish(self) -> None:
        """The teacher follows."""
        pull(self.teacher.parameters(), self.model.parameters(), self.ema)

    def servable(self) -> nn.Module:
        """The teacher, with its averaged statistics as running statistics."""
        return snapshot(self.source, served_names(self.teacher))
