"""Obstacles in an ONNX file, all that its graph tells without running it, and what to do about each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.inliner

from tta_agent.models import external_data
from tta_agent.models.onnx_import import dtypes
from tta_agent.models.onnx_import.builder import OPTIMISED, SUPPORTED
from tta_agent.models.onnx_import.fused import BEFORE, BLOCKED
from tta_agent.models.onnx_import.quantised import FLOAT_FILE, NO_GRADIENT, QUANTISED
from tta_agent.models.onnx_import.reading import INSTEAD
from tta_agent.models.outputs import OutputShape

_TAKEN = {onnx.TensorProto.DataType.Name(number).lower() for number in dtypes.TAKEN}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Reason why a model, or a part of what the agent does, cannot be used as it is.

    Attributes:
        found: the fact.
        remedy: the way around it.
    """

    found: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Port:
    """Input or output of a graph; sizes that the file leaves open are names, or None."""

    name: str
    type: str
    shape: OutputShape


def ports(proto: onnx.ModelProto) -> tuple[list[Port], list[Port]]:
    """Inputs, without the weights that old files list among them, and outputs."""
    held = {item.name for item in proto.graph.initializer}
    inputs = [_port(value) for value in proto.graph.input if value.name not in held]
    return inputs, [_port(value) for value in proto.graph.output]


def operators(proto: onnx.ModelProto) -> Counter[str]:
    """Number of nodes by operator, functions of the file's own inlined."""
    graph = (onnx.inliner.inline_local_functions(proto) if proto.functions else proto).graph
    return Counter(
        node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        for node in graph.node
    )


def find(proto: onnx.ModelProto, path: Path, shape: tuple[int, ...] | None) -> list[Obstacle]:
    """Every obstacle that the graph tells.

    Args:
        shape: of one sample, where it is given.
    """
    return [
        *_of_inputs(proto, shape),
        *_of_operators(operators(proto)),
        *_of_files(proto, path),
    ]


def _of_inputs(proto: onnx.ModelProto, shape: tuple[int, ...] | None) -> Iterator[Obstacle]:
    inputs, _ = ports(proto)
    if len(inputs) != 1:
        named = ", ".join(f"{port.name} {port.type} {_sizes(port.shape)}" for port in inputs) or "none"
        yield Obstacle(
            f"the file has {len(inputs)} inputs: {named}; a model with one input is expected",
            "export the part of the model that takes one tensor, with the others as constants",
        )
    for port in inputs:
        if port.type not in _TAKEN:
            yield Obstacle(
                f"input {port.name!r} is {port.type}; float or whole numbers are expected",
                "export the model with float inputs, and let the server cast before it",
            )
        if (
            len(inputs) == 1
            and shape is None
            and not all(isinstance(n, int) and n > 0 for n in port.shape[1:])
        ):
            yield Obstacle(
                f"input {port.name!r} {_sizes(port.shape)} leaves the size of a sample open",
                "give it: TTA_MODEL__INPUT_SHAPE=[3,224,224], --input-shape 3,224,224",
            )
        if not port.shape:
            yield Obstacle(
                f"input {port.name!r} has no batch axis", "export the model with a free batch axis"
            )


def _of_operators(found: Counter[str]) -> Iterator[Obstacle]:
    quantised = sum(n for op, n in found.items() if op in QUANTISED)
    if quantised:
        yield Obstacle(
            f"the file is quantised ({quantised} nodes): {NO_GRADIENT}",
            FLOAT_FILE,
        )
    if blocked := sum(n for op, n in found.items() if op.startswith(BLOCKED)):
        yield Obstacle(f"the file is {OPTIMISED % blocked}", BEFORE)
    for op, n in sorted(found.items()):
        if op not in SUPPORTED and op not in QUANTISED and not op.startswith(BLOCKED):
            yield Obstacle(f"operator {op} ({n} nodes) is not supported", INSTEAD)


def _of_files(proto: onnx.ModelProto, path: Path) -> Iterator[Obstacle]:
    for place in sorted(external_data.files(proto)):
        if not (path.parent / place).is_file():
            yield Obstacle(f"the weights are in {place}, which is not there", f"put it beside {path.name}")


def _port(value: onnx.ValueInfoProto) -> Port:
    kind = value.type.tensor_type
    name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
    shape = [d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in kind.shape.dim]
    return Port(value.name, name if value.type.HasField("tensor_type") else "no tensor", shape)


def _sizes(shape: OutputShape) -> str:
    return f"[{', '.join('?' if n is None else str(n) for n in shape)}]"
