"""The kind of a torch module's answer, by asking the module; and the hook that turns it into logits.

The hook changes what a call returns, and neither names nor tensors of the module: copies, adapters and snapshots of
it answer logits, and `raw` gives back the module that is exported and served.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tta_agent.core.errors import ConfigError
from tta_agent.core.task import Task, classes
from tta_agent.core.types import Array
from tta_agent.models import endings
from tta_agent.models.outputs import (
    LOGITS,
    ONE_OF,
    Kind,
    ModelOutput,
    choose,
    described,
    kind_of,
    of_task,
    words,
)
from tta_agent.models.probe_inputs import random_inputs

SINGLE = "logits"  # name of a single output without one
ROWS = 7
MOST_VALUES = 1 << 28  # of one sample: 1 GiB
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ToLogits:
    """Forward hook: the answer of a module, or of a copy of it, as logits [N, C]."""

    output: ModelOutput
    inner: Kind | None = None  # of what the module is cut at, where it ends before its answer

    def __call__(self, module: nn.Module, inputs: Any, answer: Any) -> Tensor:
        """Logits of the output that is the answer; of a module that is cut, they are log p as those of the answer."""
        output = self.output if self.inner is None else replace(self.output, kind=self.inner)
        logits: Tensor = output.logits(pick(answer, output.name))
        return logits if self.inner is None else logits.float().log_softmax(1)


def named(answer: Any) -> dict[str, Tensor]:
    """Tensors of a module's answer: keys of a mapping, `output_0` .. of a sequence, `SINGLE` for one tensor."""
    if isinstance(answer, Tensor):
        return {SINGLE: answer}
    if isinstance(answer, Mapping):
        return {str(name): value for name, value in answer.items() if isinstance(value, Tensor)}
    if isinstance(answer, tuple | list):
        tensors = [value for value in answer if isinstance(value, Tensor)]
        return {f"output_{i}": value for i, value in enumerate(tensors)}
    raise ConfigError(
        f"the model answers a {type(answer).__name__}; expected a tensor of logits [N, C], or several"
    )


def pick(answer: Any, name: str | None) -> Tensor:
    """The tensor of a module's answer that has this name; the only one where it answers a single tensor."""
    return answer if isinstance(answer, Tensor) else named(answer)[str(name)]


def find(
    module: nn.Module,
    shape: tuple[int, ...],
    device: torch.device,
    wanted: str | None,
    task: Task | None = None,
) -> tuple[ModelOutput, int]:
    """The output that is the answer, and the number of classes; has the module answer logits from here on.

    Args:
        module: inference mode, on `device`.
        shape: of one sample.
        wanted: TTA_MODEL__OUTPUT, or the name in the served file.
        task: TTA_MODEL__TASK; None decides by the values.

    Raises:
        ConfigError: the module does not take such samples, or none or several of its outputs may be the answer.
    """
    x = random_inputs(module, ROWS, shape)
    whole = _ask(module, x, device)
    found, single = _with_rows(whole, len(x)), isinstance(whole, Tensor)
    shapes = {name: ("N", *tensor.shape[1:]) for name, tensor in found.items() if tensor.is_floating_point()}
    name = choose(shapes, None if single else wanted, "the model")
    answer = found[name]

    def again() -> Iterator[Array]:
        for other, inputs in _harder(module, x):
            yield _rows(_with_rows(_ask(other, inputs, device), len(x))[name])

    rows = _rows(answer)
    output = ModelOutput(wanted if single else name, of_task(kind_of(rows, again), task, rows.shape[1]))
    inner = _cut(module, x, device, output)
    if output != LOGITS or answer.dim() != 2 or not single:
        module.register_forward_hook(ToLogits(output, inner))
    if not single and wanted is None:
        log.info(ONE_OF, described(shapes), name)
    if output.kind != "logits":
        log.info("%s", words(output.kind, cut=inner is not None))
    return output, classes(output.logits(answer))


def raw(module: nn.Module) -> nn.Module:
    """Copy of a module that answers the raw output, as it is served."""
    module = copy.deepcopy(module)
    for key in [key for key, hook in module._forward_hooks.items() if isinstance(hook, ToLogits)]:
        del module._forward_hooks[key]
    if isinstance(module, endings.Cuttable):
        module.cut(None)
    return module


def output_of(module: nn.Module) -> ModelOutput:
    """The output that `find` found for a module, or for that of which it is a copy."""
    hooks = module._forward_hooks.values()
    return next((hook.output for hook in hooks if isinstance(hook, ToLogits)), LOGITS)


def refuse_absurd_sample(shape: tuple[int, ...], what: str) -> None:
    """Raise ConfigError where no model takes samples of such a shape."""
    if not shape or min(shape) < 1 or math.prod(shape) > MOST_VALUES:
        raise ConfigError(
            f"{what} takes samples of shape {list(shape)!s:.100}; expected sizes from 1 up, and at most "
            f"{MOST_VALUES:.0e} values"
        )


def _cut(module: nn.Module, x: Array, device: torch.device, output: ModelOutput) -> Kind | None:
    """Have a module that answers probabilities end at the logits before them; the kind of these."""
    if not isinstance(module, endings.Cuttable):
        return None
    probes = [torch.from_numpy(x * np.float32(size)).to(device) for size in (1.0, 0.1, 3.0)]
    found = endings.logits_before(
        module, probes, lambda x: pick(module(x), output.name).reshape(len(x), -1), output.kind
    )
    if found is None:
        return None
    module.cut(found[0])
    return found[1]


@torch.no_grad()
def _ask(module: nn.Module, x: Array, device: torch.device) -> Any:
    try:
        return module(torch.from_numpy(x).to(device))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"the model does not take samples of shape {list(x.shape[1:])}: {told}") from None


def _with_rows(answer: Any, rows: int) -> dict[str, Tensor]:
    """Outputs that have one row for each sample."""
    return {name: tensor for name, tensor in named(answer).items() if tensor.dim() and len(tensor) == rows}


def _rows(answer: Tensor) -> Array:
    return np.asarray(answer.float().cpu().numpy().reshape(len(answer), -1))


def _harder(module: nn.Module, x: Array) -> Iterator[tuple[nn.Module, Array]]:
    """What a logit in 0 .. 1 by chance does not survive: large and small inputs, and other weights."""
    yield from ((module, x * np.float32(scale)) for scale in (30.0, 1 / 30))
    for last, factor in ((2, -1e3), (2, 1e3), (0, -1.0)):
        other = copy.deepcopy(module)
        with torch.no_grad():
            for parameter in list(other.parameters())[-last:]:
                parameter.mul_(factor)
        yield other, x
