"""Trace of a module by torch's exporter, with a free batch axis and without its notes."""

from __future__ import annotations

import copy
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from tta_agent.core.errors import GraphError
from tta_agent.models.probing import named

_BATCH = ({0: torch.export.Dim("batch")},)


def cause(error: BaseException) -> str:
    """First line of the error at the root: those around it speak of the exporter's steps."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:200]


def traced(module: nn.Module, example: Tensor, takes: str) -> onnx.ModelProto:
    """Graph of a module with a free batch axis, as torch's exporter makes it.

    Args:
        takes: name of the input.

    Raises:
        GraphError: the module takes one size of batches only; others as the exporter raises them.
    """
    names = list(named(module(example)))
    proto = _traced(module, example, takes, names)
    if _fixed_batch(proto):  # `len(x)` is a number to one tracer, and a symbol to the other
        program = torch.export.export(module, (example,), dynamic_shapes=_BATCH, strict=True)
        proto = _traced(program, example, takes, names)
    if _fixed_batch(proto):
        raise GraphError(f"it takes batches of {len(example)} only, as its code makes a number of their size")
    return _bare(proto)


def _traced(program: Any, example: Tensor, takes: str, names: list[str]) -> onnx.ModelProto:
    found = torch.onnx.export(
        program, (example,), dynamo=True, optimize=False, input_names=[takes], output_names=names,
        dynamic_shapes=_BATCH, verbose=False,
    )  # fmt: skip
    if found is None:
        raise GraphError("the exporter gave no graph")
    return found.model_proto


def _fixed_batch(proto: onnx.ModelProto) -> bool:
    return any(takes.type.tensor_type.shape.dim[0].HasField("dim_value") for takes in proto.graph.input)


def with_plain_attention(module: nn.Module) -> nn.Module | None:
    """A copy of a timm model with attention written out, which the exporter knows for more shapes; None of others."""
    module = copy.deepcopy(module)
    fused = [part for part in module.modules() if getattr(part, "fused_attn", False) is True]
    for part in fused:
        part.fused_attn = False  # type: ignore[assignment]
    return module if fused else None


def _bare(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Without the exporter's notes: they hold file names and source lines of the machine that exported."""
    for thing in (proto, proto.graph, *proto.graph.node, *proto.graph.initializer, *proto.graph.value_info):
        del thing.metadata_props[:]
        thing.doc_string = ""
    for function in proto.functions:
        for node in function.node:
            del node.metadata_props[:]
    return proto
