"""AdaMixBN and GEM: BatchNorm between source and batch, by how far each sample lies from both.

Zhang, Qi, Shi, Gao, "DomainAdaptor: A Novel Approach to Test-time Adaptation", ICCV 2023, arXiv 2308.10297.

In every layer, for every batch, with the statistics (mean, deviation) of an instance i, the batch t, the source s:

    d(a, b) = mean_c (mean_a - mean_b)^2 + mean_c (std_a - std_b)^2
    alpha_i = 1 - d(t, s) / (d(t, s) + d(i, s) + d(i, t)),   alpha = mean_i alpha_i   (a lone sample: 1/2)
    mean = alpha mean_s + (1 - alpha) mean_t,   var = alpha var_s + (1 - alpha) var_t

*Statistic transformation*: normalise by the batch, with gradients through its statistics, and make up for it with

    gamma' = gamma sqrt(var_t + eps) / sqrt(var + eps),   beta' = beta + gamma (mean_t - mean) / sqrt(var + eps)

which gives the same numbers; alpha then carries no gradient. Without it, gradients pass through alpha too.
The loss is one of `tta_adapters.gem`; one step a batch; the answers are those of a second pass, after the step.

Two modes. *Episodic*, the paper's: every batch starts from the source's gamma and beta, takes one plain SGD step,
and nothing of it stays. *Online*, ours: gamma and beta go on. The authors' code warns against that, since it stores
gamma' and beta', and the next batch's transformation would come on top. Two things compound, and both are taken away:

    the transformation   is computed anew in every pass from gamma, beta and this batch, and never stored
    the factor T^2       grows with the logits that it makes grow: the loss is in units of its mean

and after every step gamma <- (1 - pull) gamma + pull gamma_source, beta alike, so that with Adam, whose steps are
about lr, neither gets further from the source than about lr / pull.

Deviations. The step is taken on gamma and beta, not on gamma' and beta' (they differ by the factor
sqrt(var_t + eps) / sqrt(var + eps)), and the second pass makes its own alpha. A map of one value per channel (one
sample, one pixel), of which the paper's variance is not a number, is normalised by the source (alpha = 1), and an
instance of one pixel has deviation 0. gem-aug's views have statistics of their own; the paper takes the batch's
from them. The served form has no batch: it mixes the source with the averages over the stream, by the average alpha.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from tta_adapters.adamix_norm import AdaMixNorm
from tta_adapters.crops import random_crops
from tta_adapters.gem import gem
from tta_adapters.learner import Learner, Loss, Parameters
from tta_adapters.optimizers import Optimizer
from tta_adapters.ranges import between
from tta_agent.core.types import Selection, StepReport
from tta_agent.models.batchnorm import AdaptiveBatchNorm

Gem = Literal["gem-t", "gem-skd", "gem-aug"]
Temperature = Literal["per-sample", "literal"]


class AdaMixBN(Learner):
    """Mixed BatchNorm statistics, and generalised entropy minimisation of scale and shift.

    Args:
        model: the source; it is copied.
        lr: learning rate; where not given the authors' 1e-3 in episodes, and 2.5e-4 online.
        loss: gem-t, gem-skd or gem-aug.
        temperature: per-sample T^2, or the literal product of the means.
        transform: statistic transformation; False lets gradients pass through alpha.
        episodic: the paper's mode; an answer then depends on its batch alone.
        pull: share of the way back to the source after every step, 0 .. 1; online only.
        optimizer: sgd or adam; where not given sgd in episodes, and adam online. An episode begins with a fresh one:
            SGD's momentum does nothing there.
        views: augmented views of gem-aug, >= 1.
        rest: arguments of `Learner` and `tta_agent.models.batchnorm.Estimate`, but not `prior`.

    Raises:
        CannotAdapt: the model has no BatchNorm with scale or shift.
        ValueError: an option outside its range.
    """

    name = "adamixbn"
    needs = "the scale and shift of BatchNorm"
    answers_after_step = True

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float | None = None,
        loss: Gem = "gem-t",
        temperature: Temperature = "per-sample",
        transform: bool = True,
        episodic: bool = False,
        pull: float = 0.01,
        optimizer: Optimizer | None = None,
        views: int = 3,
        **rest: Any,
    ) -> None:
        _check(loss, temperature, rest)
        self._loss, self._literal = loss, temperature == "literal"
        self._views = int(between("views", views, 1))
        self._transform, self.episodic, self._pull = transform, episodic, between("pull", pull, 0, 1)
        lr = (1e-3 if episodic else 2.5e-4) if lr is None else lr
        optimizer = optimizer or ("sgd" if episodic else "adam")
        super().__init__(model, lr=lr, optimizer=optimizer, choose=batch_affine, **rest)
        self._idle = self.optimizer.state_dict()
        self._episode: tuple[Tensor, dict[str, Tensor]] | None = None  # a batch, and what was learnt from it
        self.settle()

    @property
    def needs_images(self) -> bool:
        """Whether its loss is of augmented views."""
        return self._loss == "gem-aug"

    def norm(self, layer: _BatchNorm) -> AdaMixNorm:
        """The learning form of a BatchNorm."""
        return AdaMixNorm(layer, self.estimate, self._transform)

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> logits [B, C] of the learning pass, with graph."""
        self._episode = None
        return super().forward(x)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Logits [B, C] by gamma and beta of now; episodic: by what was learnt from this batch, if it just was."""
        if self._episode is None or not torch.equal(self._episode[0], x):
            return super().predict(x)
        return functional_call(self.model, self._episode[1], (x,))  # type: ignore[no-any-return]

    def loss(self, x: Tensor, logits: Tensor, selection: Selection) -> Loss:
        """GEM over the selected samples."""
        target, relative = self._target(x, logits), not self.episodic
        return gem(logits, target, selection, literal=self._literal, relative=relative), len(selection.index)

    @torch.no_grad()
    def _target(self, x: Tensor, logits: Tensor) -> Tensor | None:
        """What the sharpened answers are compared with, [B, C]; None: themselves."""
        if self._loss == "gem-t":
            return None
        if self._loss == "gem-skd":
            return logits.softmax(dim=1)
        views = torch.cat([random_crops(x, self.generator) for _ in range(self._views)])
        return self.model(views).float().unflatten(0, (self._views, -1)).mean(0).softmax(dim=1)  # type: ignore[no-any-return]

    def step(self, x: Tensor, logits: Tensor, selection: Selection) -> StepReport:
        """One guarded step; episodic: it is kept for the answers to this batch, and undone."""
        report = super().step(x, logits, selection)
        if self.episodic and report.loss is not None:
            learnt = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
            self._episode = (x.detach().clone(), learnt)
            self._back(1.0)
            self.optimizer.load_state_dict(self._idle)
        return report

    def finish(self) -> None:
        """Online: a little back."""
        if not self.episodic:
            self._back(self._pull)

    @torch.no_grad()
    def _back(self, share: float) -> None:
        for parameter, start in self.moved().values():
            parameter.lerp_(start, share)

    def load_state_dict(self, state: Any) -> None:
        """Continue from `state_dict()`; an episode ends with that."""
        super().load_state_dict(state)
        self._episode = None


def batch_affine(model: nn.Module) -> Parameters:
    """Scale and shift of every BatchNorm, by parameter name; other normalisation has no statistics to mix."""
    return {
        f"{name}.{leaf}": parameter
        for name, module in model.named_modules()
        if isinstance(module, AdaptiveBatchNorm)
        for leaf, parameter in module.named_parameters(recurse=False)
    }


def _check(loss: str, temperature: str, rest: dict[str, Any]) -> None:
    if loss not in get_args(Gem):
        raise ValueError(f"loss {loss!r} is none of {', '.join(get_args(Gem))}")
    if temperature not in get_args(Temperature):
        raise ValueError(f"temperature {temperature!r} is neither 'per-sample' nor 'literal'")
    if rest.get("prior"):
        raise ValueError(
            f"prior {rest['prior']} has no meaning here: alpha says how much of the source is mixed in"
        )
