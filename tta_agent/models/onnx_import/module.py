"""Torch module of a graph, run step by step. Its layers are real modules, its tensors have the file's names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tta_agent.models.onnx_import.values import Size

CONSTANTS = "onnx_constants"


@dataclass(frozen=True, slots=True)
class Ref:
    """Reference to a value that is computed earlier."""

    name: str


@dataclass(frozen=True, slots=True)
class Held:
    """A parameter or buffer of the module, by its path."""

    path: str


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a function or submodule.

    Attributes:
        call: a function, or the path of a submodule.
        inputs: values, held tensors, sizes, plain numbers, lists of them, None.
        outputs: names of the results; "" is dropped.
        last: names that no later step needs.
    """

    call: Callable[..., Any] | str
    inputs: tuple[Any, ...]
    outputs: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    last: tuple[str, ...] = ()


class OnnxModule(nn.Module):
    """A graph as a torch module, [B, ...] -> [B, C], for any B.

    Args:
        steps: in the order of computation.
        takes, answers: names of the input and the logits.
        shape: of one sample.
        modules: layers by path. tensors: parameters by path. constants: by name, under `CONSTANTS`.

    The state dict holds weights and statistics, not the constants.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        takes: str,
        answers: str,
        shape: tuple[int, ...],
        modules: Mapping[str, nn.Module],
        tensors: Mapping[str, Tensor],
        constants: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self.steps = tuple(steps)
        self.takes, self.answers = takes, answers
        self.input_shape = shape
        self.input_range: tuple[int, int] | None = None  # of whole numbers
        self.input_type = torch.float32
        self.channels_last = False  # samples are [height, width, channels]
        self.cut_at: str | None = None
        for path, module in modules.items():
            self.place(path, module)
        for path, tensor in tensors.items():
            parent, leaf = self._place(path)
            parent.register_parameter(leaf, nn.Parameter(tensor.clone()))
        for name, tensor in constants.items():
            parent, leaf = self._place(f"{CONSTANTS}.{name}")
            parent.register_buffer(leaf, tensor, persistent=False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Answer [B, C], or the value that the module is cut at."""
        values: dict[str, Tensor] = {}
        for values in self._run(x):
            if self.cut_at is not None and self.cut_at in values:
                return values[self.cut_at]
        return values.get(self.answers, x)

    def cut(self, name: str | None) -> None:
        """Answer the value of this name from now on; None: the file's answer."""
        self.cut_at = name

    def last_values(self, x: Tensor, count: int) -> dict[str, Tensor]:
        """Values of the last `count` steps, in the order of computation."""
        kept = {name for step in self.steps[-count:] for name in step.outputs if name}
        found: dict[str, Tensor] = {}
        for values in self._run(x):
            found.update((name, values[name]) for name in kept & values.keys() - found.keys())
        return found

    def _run(self, x: Tensor) -> Iterator[dict[str, Tensor]]:
        """Values that are still needed, after each step."""
        values = {self.takes: self._taken(x)}
        samples = x.shape[0]
        yield values
        for step in self.steps:
            call = self.get_submodule(step.call) if isinstance(step.call, str) else step.call
            inputs = [self._input(value, values, samples) for value in step.inputs]
            options = {k: self._input(v, values, samples) for k, v in step.options.items()}
            outputs = call(*inputs, **options)
            if isinstance(outputs, Tensor):
                outputs = (outputs,)
            values.update(zip(step.outputs, outputs, strict=False))
            yield values
            for name in step.last:
                del values[name]

    def _taken(self, x: Tensor) -> Tensor:
        """The input in the file's type; inputs are float32 everywhere else."""
        if self.input_range is None:
            return x
        return x.round().clamp(*self.input_range).to(self.input_type)

    def _input(self, value: Any, values: Mapping[str, Tensor], samples: int) -> Any:
        match value:
            case Ref(name):
                return values[name]
            case Held(path):
                parent, _, leaf = path.rpartition(".")
                return getattr(self.get_submodule(parent), leaf)
            case Size():
                return value.of(samples)
            case list():
                return [self._input(item, values, samples) for item in value]
        return value

    def place(self, path: str, module: nn.Module) -> None:
        """Add a submodule under a path."""
        parent, leaf = self._place(path)
        parent.add_module(leaf, module)

    def _place(self, path: str) -> tuple[nn.Module, str]:
        """The submodule for a path, made where it is missing, and the name in it."""
        *parents, leaf = path.split(".")
        module: nn.Module = self
        for name in parents:
            if name not in module._modules:
                module.add_module(name, nn.Module())
            module = module.get_submodule(name)
        return module, leaf


def prune(steps: Sequence[Step], answers: str) -> list[Step]:
    """Steps that the answer needs, each with the names that no later step needs."""
    needed, kept = {answers}, []
    for step in reversed(steps):
        if not needed.intersection(step.outputs):
            continue
        taken = {ref.name for ref in references(step) if isinstance(ref, Ref)}
        unused = {name for name in step.outputs if name and name not in needed}
        last = tuple(sorted((taken - needed) | unused))
        needed |= taken
        kept.append(Step(step.call, step.inputs, step.outputs, step.options, last))
    return kept[::-1]


def references(step: Step) -> list[Ref | Held]:
    """References of a step to values, tensors and submodules."""
    found: list[Ref | Held] = []
    waiting: list[Any] = [*step.inputs, *step.options.values()]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, (Ref, Held)):
            found.append(value)
    return found
