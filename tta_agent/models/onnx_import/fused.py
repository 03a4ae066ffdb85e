"""Operators into which ONNX Runtime fuses others when it saves an optimised file, taken apart again.

The module then has the layers and activations that the file had before; the file itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

DOMAIN = "com.microsoft."
BLOCKED = "com.microsoft.nchwc."  # weights in blocks, for one kind of processor
BEFORE = "name the file from before that optimisation, or save one with the level ORT_ENABLE_EXTENDED at most"
_ACTIVATIONS: Mapping[str, tuple[str, ...]] = {  # names of their parameters, in the order that they are written
    "Relu": (), "Sigmoid": (), "Tanh": (), "HardSigmoid": ("alpha", "beta"), "LeakyRelu": ("alpha",),
    "Elu": ("alpha",), "Clip": ("min", "max"), "HardSwish": (),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Node:
    """One operator with the names of its inputs ("" where an optional one is left out) and outputs."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def reads(self) -> list[str]:
        """Values that it takes, its branches included."""
        inner = [
            node for value in self.attributes.values() if isinstance(value, Branch) for node in value.nodes
        ]
        return [*filter(None, self.inputs), *(name for node in inner for name in node.reads)]


@dataclass(frozen=True, slots=True)
class Branch:
    """One of the graphs that an If chooses from, which sees the values around it."""

    nodes: list[Node]
    constants: Mapping[str, Tensor]
    outputs: tuple[str, ...]


def apart(node: Node) -> list[Node]:
    """Nodes of the standard that do what this one does; the node itself where it is none of the fused ones."""
    found = APART.get(node.op)
    return found(node) if found else [node]


def _last(node: Node, op: str, inner: str, more: tuple[str, ...] = (), **attributes: Any) -> Node:
    """The last of the nodes: of the value `inner`, to the output."""
    return Node(op, f"{node.name}/{op}", (inner, *more), node.outputs[:1], attributes)


def _with_activation(op: str, node: Node) -> list[Node]:
    options = dict(node.attributes)
    name = options.pop("activation", "")
    numbers = options.pop("activation_params", [])
    given = {
        key: options.pop(f"activation_{key}") for key in ("alpha", "beta") if f"activation_{key}" in options
    }
    if name and name not in _ACTIVATIONS:
        raise NotImplementedError(f"activation {name}")
    inner = f"{node.outputs[0]}/inner" if name else node.outputs[0]
    nodes = [Node(op, node.name, node.inputs[:3], (inner,), options)]
    if (
        len(node.inputs) > 3 and node.inputs[3]
    ):  # of a convolution: another value, added before the activation
        nodes = [replace(nodes[0], outputs=(f"{inner}/conv",))]
        nodes.append(Node("Add", f"{node.name}/Add", (f"{inner}/conv", node.inputs[3]), (inner,), {}))
    if name:
        nodes.append(
            _last(node, name, inner, **(given or dict(zip(_ACTIVATIONS[name], numbers, strict=False))))
        )
    return nodes


def _matmul(node: Node) -> list[Node]:
    given = node.attributes
    if given.get("transBatchA") or given.get("transBatchB"):
        raise NotImplementedError("transBatchA or transBatchB")
    alpha, out = given.get("alpha", 1.0), node.outputs[0]
    turned = [
        f"{name}/{out}/turned" if given.get(f"trans{x}") else name
        for x, name in zip("AB", node.inputs, strict=True)
    ]
    nodes = [
        Node("TransposeLast", f"{node.name}/{new}", (name,), (new,), {})
        for name, new in zip(node.inputs, turned, strict=True)
        if new != name
    ]
    inner = out if alpha == 1.0 else f"{out}/inner"
    nodes.append(Node("MatMul", node.name, tuple(turned), (inner,), {}))
    return nodes if alpha == 1.0 else [*nodes, _last(node, "Scale", inner, by=alpha)]


def _with_bias(op: str, node: Node, **attributes: Any) -> list[Node]:
    x, *bias = node.inputs
    if not bias or not bias[0]:
        return [replace(node, op=op, inputs=(x,), attributes=attributes)]
    inner = f"{node.outputs[0]}/inner"
    return [Node("Add", node.name, (x, bias[0]), (inner,), {}), _last(node, op, inner, **attributes)]


def _skip_norm(node: Node) -> list[Node]:
    x, skip, scale, shift, bias = (*node.inputs, "", "")[:5]
    out = node.outputs[0]
    total = node.outputs[3] if len(node.outputs) > 3 and node.outputs[3] else f"{out}/sum"
    first = f"{out}/skip" if bias else total
    nodes = [Node("Add", f"{node.name}/skip", (x, skip), (first,), {})]
    if bias:
        nodes.append(Node("Add", f"{node.name}/bias", (first, bias), (total,), {}))
    more = (scale, shift) if shift else (scale,)
    epsilon = node.attributes.get("epsilon", 1e-12)
    return [*nodes, Node("LayerNormalization", node.name, (total, *more), (out,), {"epsilon": epsilon})]


def _attention(node: Node) -> list[Node]:
    """Attention of one packed product, [B, tokens, size] -> [B, tokens, size]."""
    x, weight, bias, *rest = (*node.inputs, "")
    if any(rest) or node.attributes.get("unidirectional") or node.attributes.get("do_rotary"):
        raise NotImplementedError("a mask, a past or a direction")
    out, heads = node.outputs[0], node.attributes["num_heads"]
    packed, parts = f"{out}/packed", tuple(f"{out}/{part}" for part in "qkv")
    sizes = (
        {"split": node.attributes["qkv_hidden_sizes"]}
        if "qkv_hidden_sizes" in node.attributes
        else {"num_outputs": 3}
    )
    nodes = [Node("MatMul", node.name, (x, weight), (f"{packed}/product" if bias else packed,), {})]
    if bias:
        nodes.append(Node("Add", f"{node.name}/bias", (f"{packed}/product", bias), (packed,), {}))
    options = {"q_num_heads": heads, "kv_num_heads": heads}
    if node.attributes.get("scale"):
        options["scale"] = node.attributes["scale"]
    return [
        *nodes,
        Node("Split", f"{node.name}/parts", (packed,), parts, {"axis": -1, **sizes}),
        Node("Attention", f"{node.name}/heads", parts, (out,), options),
    ]


APART: Mapping[str, Callable[[Node], list[Node]]] = {
    f"{DOMAIN}FusedConv": lambda node: _with_activation("Conv", node),
    f"{DOMAIN}FusedGemm": lambda node: _with_activation("Gemm", node),
    f"{DOMAIN}FusedMatMul": _matmul,
    f"{DOMAIN}TransposeMatMul": _matmul,
    f"{DOMAIN}Gelu": lambda node: [replace(node, op="Gelu")],
    f"{DOMAIN}BiasGelu": lambda node: _with_bias("Gelu", node),
    f"{DOMAIN}FastGelu": lambda node: _with_bias("Gelu", node, approximate="tanh"),
    f"{DOMAIN}QuickGelu": lambda node: [replace(node, op="Swish")],
    f"{DOMAIN}SkipLayerNormalization": _skip_norm,
    f"{DOMAIN}Attention": _attention,
}
