"""Builder of the torch module from the file's nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tta_agent.core.errors import ConfigError
from tta_agent.models.onnx_import import (  # noqa: F401 (the table)
    dtypes,
    layers,
    quantised,
    recurrent,
    resizing,
    shapes,
    spatial,
    sums,
    tracing,
)
from tta_agent.models.onnx_import.fused import APART, BEFORE, BLOCKED, Branch, Node
from tta_agent.models.onnx_import.layers import Layer
from tta_agent.models.onnx_import.module import CONSTANTS, Held, OnnxModule, Ref, Step, prune, references
from tta_agent.models.onnx_import.naming import Names, Slot
from tta_agent.models.onnx_import.operators import OPERATORS, Operator
from tta_agent.models.onnx_import.parts import whole
from tta_agent.models.onnx_import.quantised import FLOAT_FILE, NO_GRADIENT, QUANTISED
from tta_agent.models.onnx_import.reading import INSTEAD, File
from tta_agent.models.onnx_import.tracing import Inputs
from tta_agent.models.onnx_import.values import BATCHES, Made, Value, Weight, numbers

_SPECIAL = {"Constant", "If", "SplitToSequence", "SequenceAt"}
SUPPORTED = OPERATORS.keys() | _SPECIAL | APART.keys()
OPTIMISED = "optimised for one kind of processor (%d nodes with weights in blocks)"
_REFUSALS = (NotImplementedError, TypeError, ValueError, RuntimeError, KeyError, IndexError)


def build(file: File, shape: tuple[int, ...]) -> tuple[OnnxModule, dict[str, Slot]]:
    """The module, and for each tensor of its state dict the initializer it comes from.

    Raises:
        ConfigError: an operator, or a use of one, that is not supported.
    """
    refuse_unknown(file)
    builder = _Builder(file, shape)
    for node in file.nodes:
        try:
            builder.add(node)
        except _REFUSALS as error:
            raise _refusal(file, node, error) from error
    return builder.finish()


def _refusal(file: File, node: Node, error: Exception) -> ConfigError:
    what = str(error).splitlines()[0] if str(error) else type(error).__name__
    if file.batch and not isinstance(error, NotImplementedError):
        return ConfigError(f"{file.stuck} (node {node.name!r}: {what})")
    use = f"node {node.name!r} of the ONNX file uses operator {node.op} in a way that is not supported"
    return ConfigError(f"{use}: {what};\n{INSTEAD}")


def refuse_unknown(file: File) -> None:
    """Raise ConfigError that names the operators that are not supported, where there are some."""
    if blocked := sum(node.op.startswith(BLOCKED) for node in file.nodes):
        raise ConfigError(f"the ONNX file was {OPTIMISED % blocked};\n{BEFORE}")
    if coded := sum(node.op in QUANTISED for node in file.nodes):
        raise ConfigError(
            f"the ONNX file has quantised operators ({coded} nodes): {NO_GRADIENT};\n{FLOAT_FILE}"
        )
    unknown: dict[str, str] = {}
    for node in file.nodes:
        if node.op not in OPERATORS and node.op not in _SPECIAL:
            unknown.setdefault(node.op, node.name)
    if unknown:
        named = ", ".join(f"{op} (node {name!r})" for op, name in sorted(unknown.items()))
        raise ConfigError(f"the ONNX file has operators that are not supported: {named};\n{INSTEAD}")


@dataclass(slots=True)
class _Builder:
    """Follows the values through the graph and writes down the steps."""

    file: File
    shape: tuple[int, ...]
    values: dict[str, Value] = field(default_factory=dict)
    sequences: dict[str, list[str]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    layers: dict[str, Layer] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)
    uses: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        dtype = dtypes.torch_type(self.file.takes_type)
        few, more = (torch.empty(n, *self.shape, device="meta", dtype=dtype) for n in BATCHES)
        self.values[self.file.takes] = Value(self.file.takes, (few, more))
        for name, tensor in self.file.weights.items():
            shape_only = torch.empty_like(tensor, device="meta")
            self.values[name] = Value(name, (shape_only, shape_only), Weight(name))
        for name, tensor in self.file.constants.items():
            self.values[name] = Value(name, (tensor, tensor))
        self.uses.update(name for node in self.file.nodes for name in node.reads)

    def add(self, node: Node) -> None:
        """One more node."""
        if node.op == "SequenceAt":
            place = numbers(self.values[node.inputs[1]])
            self.values[node.outputs[0]] = self.values[self.sequences[node.inputs[0]][place]]
            return
        inputs = tuple(self.values[name] if name else None for name in node.inputs)
        attributes = tracing.explicit(node, inputs)
        if node.op == "Constant":
            tensor = tracing.constant(attributes)
            self.values[node.outputs[0]] = Value(node.outputs[0], (tensor, tensor))
        elif node.op == "If":
            self._branch(node, bool(numbers(self.values[node.inputs[0]])))
        elif node.op == "SplitToSequence":
            self._split(node, inputs, attributes)
        elif inputs and inputs[0] and tracing.unchanged(node.op, inputs, attributes):
            self.values[node.outputs[0]] = inputs[0]
        else:
            self._compute(node, inputs, attributes)

    def _branch(self, node: Node, condition: bool) -> None:
        """The nodes of the branch that is always taken."""
        branch: Branch = node.attributes["then_branch" if condition else "else_branch"]
        for name, tensor in branch.constants.items():
            self.values[name] = Value(name, (tensor, tensor))
        for inner in branch.nodes:
            self.add(inner)
        for name, inside in zip(node.outputs, branch.outputs, strict=True):
            self.values[name] = self.values[inside]

    def _split(self, node: Node, inputs: Inputs, attributes: Mapping[str, Any]) -> None:
        x, sizes = (*inputs, None)[:2]
        if x is None or not attributes.get("keepdims", 1):
            raise NotImplementedError("parts without the axis")
        axis = attributes.get("axis", 0)
        split = tracing.parts(x, 1 if sizes is None else numbers(sizes), axis)
        names = [f"{node.outputs[0]}/{i}" for i in range(len(split))]
        self.sequences[node.outputs[0]] = names
        self.add(Node("Split", node.name, node.inputs[:1], tuple(names), {"axis": axis, "split": split}))

    def _compute(self, node: Node, inputs: Inputs, attributes: Mapping[str, Any]) -> None:
        op = OPERATORS[node.op]
        made = Made(node.op, inputs, attributes)
        few, more = (tracing.probe(op, inputs, attributes, i) for i in (0, 1))
        known = not few[0].is_meta and all(a.shape == b.shape for a, b in zip(few, more, strict=True))
        for name, a, b in zip(node.outputs, few, more, strict=False):
            pair = (a, b) if known else (a.to("meta"), b.to("meta"))
            self.values[name] = Value(name, pair, tracing.view(made, a), made)
        if known:
            return
        found = layers.recognise(node.op, inputs, attributes) or whole(made, self.uses, self.file.weights)
        if found:
            self._add_layer(node, found)
            return
        taken = tuple(self._input(op, i, value) for i, value in enumerate(inputs))
        options = {**attributes, "like": Ref(self.file.takes)} if op.makes else dict(attributes)
        self.steps.append(Step(op.call, taken, node.outputs, options))

    def _add_layer(self, node: Node, found: Layer) -> None:
        self.layers[node.name] = found
        out = node.outputs[0]
        taken = self._input(None, 0, found.x)
        if found.before:
            self._call(found.before, taken, f"{out}/before")
            taken = Ref(f"{out}/before")
        self.steps.append(Step(node.name, (taken,), (f"{out}/inner" if found.after else out,)))
        if found.after:
            self._call(found.after, Ref(f"{out}/inner"), out)

    def _call(self, function: tuple[Any, ...], taken: Any, out: str) -> None:
        self.steps.append(Step(function[0], (taken, *function[1:]), (out,)))

    def _input(self, op: Operator | None, i: int, value: Value | None) -> Any:
        if value is None:
            return None
        if not value.known:
            initializer = value.weight is not None and value.name in self.file.weights
            return Held(value.name) if initializer else Ref(value.name)
        if (op and i in op.host) or not value.probes[0].dim():
            return numbers(value)
        if value.constant:
            self.constants[value.name] = value.probes[0]
            return Held(f"{CONSTANTS}.{value.name}")
        raise NotImplementedError(f"input {value.name!r} depends on the size of the batch")

    def finish(self) -> tuple[OnnxModule, dict[str, Slot]]:
        """The module of the steps that the answer needs."""
        answers = self.values[self.file.answers].name
        steps = prune(self.steps, answers)
        used = {step.call: self.layers[step.call] for step in steps if isinstance(step.call, str)}
        held = {ref.path for step in steps for ref in references(step) if isinstance(ref, Held)}
        names = Names(used, [name for name in self.file.weights if name in held])
        weights = self.file.weights
        modules: dict[str, nn.Module] = {names.layers[k]: found.build(weights) for k, found in used.items()}
        tensors = {path: weights[name] for name, path in names.tensors.items()}
        constants = {names.constant(k): v for k, v in self.constants.items() if f"{CONSTANTS}.{k}" in held}
        steps = [names.rename(step) for step in steps]
        module = OnnxModule(steps, self.file.takes, answers, self.shape, modules, tensors, constants)
        module.input_range, module.channels_last = self.file.limits, self.file.channels_last
        module.input_type = dtypes.torch_type(self.file.takes_type) or module.input_type
        return module, names.slots
