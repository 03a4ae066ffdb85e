"""A copy of the deployed model that answers, averages statistics, and can be served, saved and reset.

It normalises with batch statistics and averages them for serving (`tta_agent.models.batchnorm`). Numbers that are not
finite never stay: a batch in which single inputs lead to them is skipped, a copy that holds some starts over.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tta_agent.core.types import StepReport
from tta_agent.models.batchnorm import AdaptiveBatchNorm, StatsConfig, absorb, census, convert
from tta_agent.models.freeze import served_names, snapshot
from tta_agent.scoring.sample_scores import all_finite

FAR = 1e3  # times the batch's median of largest values: where single inputs may be the reason
SMALLEST = 16  # below it batch statistics cost accuracy: of one image each, norm answers 12 % instead of 71 % rightly
log = logging.getLogger(__name__)


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
        self._told: set[str] = set()

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

    @property
    def smallest_batch(self) -> int:
        """Samples that a batch needs for statistics of its own; 1 where each sample is normalised alone."""
        return SMALLEST if self.norms else 1

    @property
    def layers(self) -> Iterable[AdaptiveBatchNorm]:
        """The layers whose averages are served."""
        return self.norms.values()

    def source_share(self) -> float:
        """How much of the served statistics is still the source's, 0 to 1: what they may owe to chance alone."""
        shares = [layer.state.shrunk.mean() for layer in self.layers]
        return float(torch.stack(shares).mean()) if shares else 0.0

    def absorb(self) -> bool:
        """Move the served statistics by the batch that `forward` has seen; False, and none moves, if not finite."""
        return absorb(self.layers)

    def given_up(self, x: Tensor) -> StepReport:
        """Skip a batch [B, ...] that led to a number that is not finite; where not single inputs did, start over."""
        if not (self.sound() and self._single(x)):
            return self.start_over(x)
        self._tell("%s: batches are skipped in which single inputs lead to numbers that are not finite")
        return StepReport(len(x), 0, None, {"skipped": 1.0})

    def start_over(self, x: Tensor) -> StepReport:
        """Back to the start, and said so."""
        self._tell("%s: the copy met numbers that are not finite and starts over from the source")
        self.reset()
        return StepReport(len(x), 0, None, {"nonfinite": 1.0})

    def _single(self, x: Tensor) -> bool:
        """Whether the copy answers finite numbers once the largest inputs are left out."""
        peak = x.flatten(1).abs().amax(1)
        rest = x[peak <= FAR * peak.nanmedian()]  # NaN is no part of it
        return 0 < len(rest) < len(x) and all_finite(self.predict(rest))

    def _tell(self, message: str) -> None:
        """Once; the telemetry counts."""
        if message not in self._told:
            self._told.add(message)
            log.warning(message, self.name)

    def sound(self, *, absorbed: bool = False) -> bool:
        """Whether all that changes is finite: weights, averages, moments, memory.

        Args:
            absorbed: `absorb` has looked at the averages in this step already.
        """
        return all_finite(*self._learning_tensors(), *(() if absorbed else self._averages()))

    def _averages(self) -> Iterator[Tensor]:
        for part in self.parts.values():
            if isinstance(part, nn.Module):
                norms = (module for module in part.modules() if isinstance(module, AdaptiveBatchNorm))
                yield from (average for norm in norms for average in norm.buffers())

    def _learning_tensors(self) -> Iterator[Tensor]:
        yield from self.memory.values()
        for part in self.parts.values():
            if isinstance(part, torch.optim.Optimizer):
                yield from (parameter for group in part.param_groups for parameter in group["params"])
                values = (value for moments in part.state.values() for value in moments.values())
                yield from (value for value in values if isinstance(value, Tensor))

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


def cannot(name: str, needs: str, model: nn.Module) -> str:
    """Why a method refuses a model, and what to take instead."""
    has = ", ".join(f"{n} {kind}" for kind, n in census(model).items()) or "no normalisation layer"
    return (
        f"adapter {name!r} adapts {needs}, and this model has none of it (it has: {has}); "
        f"use TTA_ADAPT__METHOD=tent, eata, sar, deyo or roid with scale and shift of Batch-, Group-, Layer-, "
        f"InstanceNorm or RMSNorm, rmt, cotta or tesla with any weights, TTA_ADAPT__METHOD=frozen to only monitor"
    )
