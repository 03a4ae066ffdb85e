"""What all adapters share: a copy that answers and can be served, and one whose parameters learn.

A method's own file then holds its formulas and nothing else. `Copy` normalises with batch statistics and averages
them for serving (`tta_agent.models.batchnorm`); `Learner` adds an optimiser and the guarded step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tta_adapters.optimizers import Optimizer, make_optimizer
from tta_agent.core.errors import CannotAdapt
from tta_agent.core.types import Selection, StepReport
from tta_agent.models.batchnorm import AdaptiveBatchNorm, StatsConfig, affine, census, convert
from tta_agent.models.freeze import served_names, snapshot
from tta_agent.scoring.sample_scores import all_finite

Parameters = dict[str, nn.Parameter]
Choose = Callable[[nn.Module], Parameters]
Loss = tuple[Tensor, int]  # the value, and how many samples it was learnt from
FEW = 0.4  # share of selected samples below which they are forwarded again rather than all with a graph
RECENT = 0.1  # share of the newest batch in the average share of selected samples


class Copy:
    """A copy of the source under batch statistics. Everything that changes is in `parts` and `memory`.

    Args:
        model: the source; it is copied.
        seed: of the method's own random numbers.
        statistics: arguments of `tta_agent.models.batchnorm.Estimate`.
    """

    name: ClassVar[str]
    selectors: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    answers_after_step: ClassVar[bool] = False

    def __init__(self, model: nn.Module, *, seed: int = 0, **statistics: Any) -> None:
        self.estimate = StatsConfig(**statistics)
        self.source = copy.deepcopy(model).eval().requires_grad_(False)
        self.model = copy.deepcopy(self.source)
        self.norms = convert(self.model, self.norm)
        self.generator = torch.Generator().manual_seed(seed)
        self.parts: dict[str, Any] = {"model": self.model}  # things with a state_dict
        self.memory: dict[str, Tensor] = {}
        self._start: dict[str, Any] = {}

    def norm(self, layer: _BatchNorm) -> AdaptiveBatchNorm:
        """The learning form of a BatchNorm."""
        return AdaptiveBatchNorm(layer, self.estimate)

    def settle(self) -> None:
        """The state of now is the one that a reset comes back to: the last line of every constructor."""
        self._start = self.state_dict()

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> logits [B, C] with graph; the layers remember the batch."""
        with torch.enable_grad():
            return self.model(x)  # type: ignore[no-any-return]

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """The same logits, with no trace left."""
        return self.model(x)  # type: ignore[no-any-return]

    def absorb(self) -> None:
        """Move the served statistics by the batch that `forward` has seen."""
        for layer in self.norms.values():
            layer.absorb()

    def given_up(self, x: Tensor) -> StepReport:
        """Something was not finite: back to the start, and said so."""
        self.reset()
        return StepReport(len(x), 0, None, {"nonfinite": 1.0})

    def servable(self) -> nn.Module:
        """The source with what was learnt, and the averaged statistics as running statistics."""
        return snapshot(self.source, served_names(self.model))

    def moved(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Nothing but statistics."""
        return {}

    def reset(self) -> None:
        """Back to the start, bit for bit."""
        self.load_state_dict(self._start)

    def state_dict(self) -> dict[str, Any]:
        """Weights, averages, moments, memory and random state."""
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        return copy.deepcopy({**parts, "memory": self.memory, "random": self.generator.get_state()})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        for name, part in self.parts.items():
            part.load_state_dict(copy.deepcopy(state[name]))
        self.memory = copy.deepcopy(state["memory"])
        self.generator.set_state(state["random"].cpu())


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

    needs = "the scale and shift of BatchNorm, GroupNorm or LayerNorm"
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
        logits = self._again(x, logits, selection)
        found = self.loss(x, logits, selection)
        if found is None:
            return StepReport(seen=len(x), used=0, loss=None)
        value, used = found
        if not self.backward(value, logits):
            return self.given_up(x)
        self.optimizer.step()
        self.absorb()
        self.finish()
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


def cannot(name: str, needs: str, model: nn.Module) -> str:
    """Why a method refuses a model, and what to take instead."""
    has = ", ".join(f"{n} {kind}" for kind, n in census(model).items()) or "no normalisation layer"
    return (
        f"adapter {name!r} adapts {needs}, and this model has none of it (it has: {has}); "
        f"use TTA_ADAPT__METHOD=tent, eata, sar, deyo or roid with BatchNorm, GroupNorm or LayerNorm, "
        f"rmt, cotta or tesla with any weights, TTA_ADAPT__METHOD=frozen to only monitor"
    )


def weighted_mean(values: Tensor, selection: Selection) -> Tensor:
    """sum_k w_k values_k / K over the selected samples; values [B]."""
    return (values[selection.index] * selection.weight).sum() / len(selection.index)


def marginal_entropy(logits: Tensor) -> Tensor:
    """H(mean_i p_i), [B, C] -> a scalar in nats, 0 .. ln C. High = answers spread over the classes."""
    log_mean = logits.log_softmax(dim=1).logsumexp(dim=0) - math.log(len(logits))
    return -(log_mean.exp() * log_mean).sum()
