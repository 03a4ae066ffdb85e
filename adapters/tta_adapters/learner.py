"""What all learning adapters share: parameters, an optimiser and the guarded step.

A method's own file then holds its formulas and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tta_adapters.base import Copy, cannot
from tta_adapters.optimizers import Optimizer, make_optimizer
from tta_agent.core.errors import CannotAdapt
from tta_agent.core.types import Selection, StepReport
from tta_agent.models.batchnorm import affine
from tta_agent.scoring.sample_scores import all_finite

Parameters = dict[str, nn.Parameter]
Choose = Callable[[nn.Module], Parameters]
Loss = tuple[Tensor, int]  # the value, and how many samples it was learnt from
FEW = 0.4  # share of selected samples below which they are forwarded again rather than all with a graph
RECENT = 0.1  # share of the newest batch in the average share of selected samples


class Learner(Copy):
    """A copy whose chosen parameters follow a loss. Subclasses say `loss`, and `finish` what comes after a step.

    Args:
        model: the source; it is copied.
        lr: learning rate.
        optimizer: adam (betas 0.9, 0.999) or sgd (momentum 0.9), both without weight decay.
        nesterov: Nesterov's momentum, of sgd only.
        marginal: strength of the marginal-entropy term, >= 0: loss - marginal H(mean of p over the whole batch), as
            in "Unified Entropy Optimization for Open-Set Test-Time Adaptation" (CVPR 2024, arXiv 2404.06065). It
            keeps the answers spread over the classes; wrong for batches of few classes, and cancels at batches of 1.
        choose: which parameters learn, from the learning copy.

    Raises:
        CannotAdapt: nothing to learn in this model.
    """

    needs = "scale and shift of a normalisation layer"
    of_selected: ClassVar[bool] = False  # the loss depends on the logits of selected samples only

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        optimizer: Optimizer = "adam",
        nesterov: bool = False,
        marginal: float = 0.0,
        choose: Choose = affine,
        **rest: Any,
    ) -> None:
        if marginal < 0:
            raise ValueError(f"marginal {marginal} is the strength of a term and cannot be negative")
        super().__init__(model, **rest)
        self.marginal = marginal
        self.parameters = choose(self.model)
        if not self.parameters:
            raise CannotAdapt(cannot(self.name, self.needs, model))
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        self.optimizer = make_optimizer(optimizer, list(self.parameters.values()), lr, nesterov=nesterov)
        self.parts["optimizer"] = self.optimizer
        self.gradient = 0.0
        self.apart = self.of_selected and not self.norms and not marginal
        if self.apart:
            self.memory["selected"] = torch.ones(())

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> logits [B, C] with graph; the layers remember the batch.

        Without a graph where no sample influences another and few were selected of late: the step then forwards
        the few again, which is exact and cheaper than going back through all.
        """
        if self.apart and float(self.memory["selected"]) < FEW:
            return self.predict(x)
        return super().forward(x)

    def _again(self, x: Tensor, logits: Tensor, selection: Selection) -> Tensor:
        """The logits [B, C] with a graph in the rows of the selected."""
        if not self.apart:
            return logits
        self.memory["selected"].lerp_(torch.tensor(len(selection.index) / len(x)), RECENT)
        if logits.requires_grad:
            return logits
        few = super().forward(x[selection.index])
        return logits.detach().float().index_copy(0, selection.index, few.float())

    def loss(self, x: Tensor, logits: Tensor, selection: Selection) -> Loss | None:
        """What to go down, from the whole batch and who was selected; None: no one is left to learn from."""
        raise NotImplementedError

    def finish(self) -> None:
        """After a step that was taken: averages of weights, memory."""

    def step(self, x: Tensor, logits: Tensor, selection: Selection) -> StepReport:
        """One guarded step. Nobody selected: nothing at all is touched, not even momentum."""
        if not len(selection.index):
            return StepReport(seen=len(x), used=0, loss=None)
        if not all_finite(logits):
            return self.given_up(x)
        logits = self._again(x, logits, selection)
        found = self.loss(x, logits, selection)
        if found is None:
            return StepReport(seen=len(x), used=0, loss=None)
        value, used = found
        if not (self.backward(value, logits) and self.absorb()):
            return self.given_up(x)
        self.optimizer.step()
        self.finish()
        if not self.sound(absorbed=True):
            return self.start_over(x)
        return StepReport(seen=len(x), used=used, loss=value.item(), diagnostics={"gradient": self.gradient})

    def backward(self, value: Tensor, logits: Tensor) -> bool:
        """Gradients of the loss less the marginal term, in place of the old ones; whether all of it is finite."""
        if self.marginal:
            value = value - self.marginal * marginal_entropy(logits)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        return self.healthy(value)

    def healthy(self, loss: Tensor) -> bool:
        """Loss and gradients are finite; keeps the norm of all gradients together."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        self.gradient = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
        return all_finite(loss) and math.isfinite(self.gradient)

    def moved(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """What learns, and where it started."""
        start = dict(self.source.named_parameters())
        return {name: (parameter, start[name]) for name, parameter in self.parameters.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`, without old gradients."""
        super().load_state_dict(state)
        self.optimizer.zero_grad(set_to_none=True)


def weighted_mean(values: Tensor, selection: Selection) -> Tensor:
    """sum_k w_k values_k / K over the selected samples; values [B]."""
    return (values[selection.index] * selection.weight).sum() / len(selection.index)


def marginal_entropy(logits: Tensor) -> Tensor:
    """H(mean_i p_i), [B, C] -> a scalar in nats, 0 .. ln C. High = answers spread over the classes."""
    log_mean = logits.log_softmax(dim=1).logsumexp(dim=0) - math.log(len(logits))
    return -(log_mean.exp() * log_mean).sum(dim=0).mean()
