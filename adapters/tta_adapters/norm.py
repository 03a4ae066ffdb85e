"""Statistics of the target in every BatchNorm, nothing else: the baseline that every method must beat.

Schneider et al., "Improving robustness against common corruptions by covariate shift adaptation",
NeurIPS 2020, arXiv 2006.16971; Nado et al., arXiv 2006.10963.

With `prior=N` the batch of B samples is mixed with the source as in the former paper (its section 3):
mean = N/(N+B) mean_source + B/(N+B) mean_batch, the variance alike; 0 is the batch alone.

Deviation: the papers score each batch with its own statistics (so does `forward`); the served form averages
them over the stream, see `tta_agent.models.batchnorm.AdaptiveBatchNorm`. With `prior` the served form is the same
mixture of source and averages.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tta_adapters.base import Copy, cannot
from tta_agent.core.errors import CannotAdapt
from tta_agent.core.types import Selection, StepReport
from tta_agent.scoring.sample_scores import all_finite


class Norm(Copy):
    """Re-estimates BatchNorm statistics on the stream.

    Args:
        model: the source; it is copied.
        rest: arguments of `tta_agent.models.batchnorm.Estimate`.

    Raises:
        CannotAdapt: the model has no BatchNorm with running statistics.
    """

    name = "norm"

    def __init__(self, model: nn.Module, **rest: Any) -> None:
        super().__init__(model, **rest)
        if not self.norms:
            raise CannotAdapt(cannot(self.name, "the running statistics of BatchNorm", model))
        self.settle()

    def step(self, x: Tensor, logits: Tensor, selection: Selection) -> StepReport:
        """Absorb the statistics of the batch that `forward` has just seen."""
        used = len(selection.index)
        if used and not (all_finite(logits) and self.absorb()):
            return self.given_up(x)
        return StepReport(seen=len(x), used=used, loss=None)
