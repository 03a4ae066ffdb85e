"""An ONNX file as a plain list of nodes, after its graph was made regular."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner
import torch
from torch import Tensor

from tta_agent.core.errors import ConfigError
from tta_agent.models.onnx_import import dtypes, input_form, quantised
from tta_agent.models.onnx_import.fused import Branch, Node, apart
from tta_agent.models.onnx_import.limits import load_data, refuse_absurd, refuse_too_long
from tta_agent.models.onnx_import.operators import OPERATORS
from tta_agent.models.onnx_import.regular import adaptable, free_batch, in_order, lift_constants, own_weights

INSTEAD = "give the model by TTA_MODEL__NAME, or TTA_MODEL__FACTORY, with TTA_MODEL__WEIGHTS instead"


@dataclass(frozen=True, slots=True)
class File:
    """Content of an ONNX file.

    Attributes:
        proto: the regular graph; its answers are the file's.
        nodes: in the order of computation.
        weights: floats that may be adapted, by initializer.
        constants: integers, numbers, masks.
        takes, answers: names of the input and of the output that is the answer.
        shape: of one sample; None where the file leaves a size open.
        batch: the fixed batch size that the file insists on, or None.
        limits: least and largest number that it takes, where these are whole ones.
        channels_last: samples are [height, width, channels].
        tolerance: largest difference of logits, in units of the largest, that its type of numbers explains.
        codes: weights that are kept as codes, by name.
    """

    proto: onnx.ModelProto
    nodes: list[Node]
    weights: dict[str, Tensor]
    constants: dict[str, Tensor]
    takes: str
    answers: str
    shape: tuple[int | None, ...]
    batch: int | None
    limits: tuple[int, int] | None
    channels_last: bool
    tolerance: float
    codes: Mapping[str, quantised.Codes]

    @property
    def takes_type(self) -> int:
        """ONNX's number of the input's type."""
        return int(self.proto.graph.input[0].type.tensor_type.elem_type)

    def ending_in(self, output: str) -> File:
        """The file with this output as the answer, and only the nodes that it needs."""
        needed, nodes = {output}, []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                needed.update(node.reads)
                nodes.append(node)
        return replace(self, answers=output, nodes=nodes[::-1])

    @property
    def stuck(self) -> str:
        """Message for a graph that does not follow another batch size."""
        return (
            f"the ONNX file was exported for batches of {self.batch} and does not follow another size; "
            "export it with a dynamic batch axis"
        )


def read(path: Path) -> File:
    """Read a file and make its graph regular.

    Raises:
        ConfigError: not an ONNX file, not one input of numbers, or sizes that no model has.
    """
    try:
        refuse_too_long(path)
        proto = onnx.load(path, load_external_data=False)
        load_data(proto, path)
        if proto.functions:
            proto = onnx.inliner.inline_local_functions(proto)
        refuse_absurd(proto, path)
        return _file(proto, path)
    except ConfigError:
        raise
    except Exception as error:  # a damaged file raises whatever is met first
        told = str(error).partition("\n")[0][:200] or type(error).__name__
        raise ConfigError(f"TTA_MODEL__ONNX={path} cannot be read as an ONNX file: {told}") from None


def _file(proto: onnx.ModelProto, path: Path) -> File:
    graph = proto.graph
    takes = _input(graph, path)
    batch = free_batch(graph, takes)
    in_order(graph)
    lift_constants(graph)
    opset = max((o.version for o in proto.opset_import if not o.domain), default=1)
    quantised.by_channel(graph, opset)
    found = quantised.weights(graph)
    weights = {item.name for item in graph.initializer if adaptable(item, path.parent)} - _numbers(graph)
    weights |= own_weights(graph, weights)
    items = {item.name: item for item in graph.initializer}
    tensors = {item.name: _tensor(item, path.parent) for item in graph.initializer}
    called = quantised.names(found, items)
    codes = {called[name]: replace(one, follows=called.get(one.follows or "")) for name, one in found.items()}
    coded = {name: torch.from_numpy(one.values(items)) for name, one in codes.items()}
    nodes = quantised.without(_nodes(graph, opset), called, items)
    return File(
        proto,
        nodes,
        {name: t for name, t in tensors.items() if name in weights} | coded,
        {name: t for name, t in tensors.items() if name not in weights},
        takes.name,
        graph.output[0].name,
        tuple(d.dim_value if d.dim_value > 0 else None for d in takes.type.tensor_type.shape.dim[1:]),
        batch,
        input_form.input_range(graph, takes),
        input_form.channels_last(graph, takes),
        quantised.TOLERANCE if codes else dtypes.tolerance(graph),
        codes,
    )


def _input(graph: onnx.GraphProto, path: Path) -> onnx.ValueInfoProto:
    held = {item.name for item in graph.initializer}  # old files list them among the inputs
    inputs = [value for value in graph.input if value.name not in held]
    axes = [len(value.type.tensor_type.shape.dim) for value in inputs]
    if axes in ([], [0]) or len(inputs) != 1 or inputs[0].type.tensor_type.elem_type not in dtypes.TAKEN:
        kinds = ", ".join(
            f"{v.name} {onnx.TensorProto.DataType.Name(v.type.tensor_type.elem_type).lower()}" for v in inputs
        )
        raise ConfigError(
            f"TTA_MODEL__ONNX={path} takes {kinds or 'nothing'}; expected one float input [batch, ...], or one of "
            f"whole numbers;\n{INSTEAD}"
        )
    del graph.input[:]
    graph.input.append(inputs[0])
    taken: onnx.ValueInfoProto = graph.input[0]
    return taken


def _numbers(graph: onnx.GraphProto) -> set[str]:
    """Inputs of operators that are sizes or factors to them, whatever their type."""
    tables = ((node, OPERATORS[node.op_type].host) for node in graph.node if node.op_type in OPERATORS)
    return {name for node, host in tables for i, name in enumerate(node.input) if i in host}


def _nodes(graph: onnx.GraphProto, opset: int) -> list[Node]:
    return [part for node in graph.node for part in apart(_node(node, opset))]


def _node(node: onnx.NodeProto, opset: int) -> Node:
    attributes = {a.name: _attribute(a, opset) for a in node.attribute}
    if node.op_type in ("Softmax", "LogSoftmax") and opset < 13:
        attributes.setdefault("axis", 1)
    if node.op_type == "Split" and "split" not in attributes and len(node.input) < 2:
        attributes["num_outputs"] = len(node.output)
    op = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    name = node.name or node.output[0]
    return Node(op, name, tuple(node.input), tuple(node.output), attributes)


def _attribute(attribute: onnx.AttributeProto, opset: int) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.GraphProto):
        constants = {item.name: _tensor(item) for item in value.initializer}
        return Branch(_nodes(value, opset), constants, tuple(item.name for item in value.output))
    if isinstance(value, onnx.TensorProto):
        return _tensor(value)
    if attribute.name == "to":
        return dtypes.torch_type(value)
    return value.decode() if isinstance(value, bytes) else value


def _tensor(item: onnx.TensorProto, folder: Path = Path()) -> Tensor:
    try:
        return dtypes.torch_tensor(item, folder)
    except ValueError as error:
        raise ValueError(f"tensor {item.name!r} of shape {list(item.dims)}: {error}") from error
