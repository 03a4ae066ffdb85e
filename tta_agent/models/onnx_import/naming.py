"""Names of the state dict: the file's wherever they can be torch names, and a map where not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tta_agent.models.onnx_import.layers import Layer
from tta_agent.models.onnx_import.module import CONSTANTS, Held, Step
from tta_agent.models.onnx_import.values import Weight


@dataclass(frozen=True, slots=True)
class Slot:
    """Place of a state-dict tensor in the file: the initializer, as it is or as the transposed matrix."""

    initializer: str
    transposed: bool = False


class Names:
    """Paths of layers and tensors in the module.

    A layer whose initializers are `<path>.weight`, `<path>.bias` and so on gets this path. Where only one of them
    is so named (exporters fold and transpose), it decides. Otherwise the node's name does.

    Args:
        layers: by node name. tensors: initializers that stand alone.

    Attributes:
        layers: path by node name. tensors: path by initializer. slots: initializer by name in the state dict.
    """

    def __init__(self, layers: Mapping[str, Layer], tensors: Sequence[str]) -> None:
        self.layers: dict[str, str] = {}
        self.slots: dict[str, Slot] = {}
        for full in (True, False):  # those whose every initializer says so come first
            for node, layer in layers.items():
                if node not in self.layers and (paths := _paths(layer, full)):
                    self._take(node, layer, next((p for p in paths if not self._taken(p)), None))
        for node, layer in layers.items():
            if node not in self.layers:
                self._take(node, layer, self._free(_torch_name(node)))
        held = {slot.initializer: path for path, slot in self.slots.items() if not slot.transposed}
        self.tensors = {name: self._free(_alone(name)) for name in tensors if name not in held}
        self.slots |= {path: Slot(name) for name, path in self.tensors.items()}
        self._paths = held | self.tensors

    def constant(self, name: str) -> str:
        """Name of a constant under `CONSTANTS`."""
        return _torch_name(name).replace(".", "_")

    def rename(self, step: Step) -> Step:
        """Step with the paths of the module."""
        call = self.layers[step.call] if isinstance(step.call, str) else step.call
        return replace(step, call=call, inputs=tuple(self._renamed(value) for value in step.inputs))

    def _renamed(self, value: Any) -> Any:
        if not isinstance(value, Held):
            return value
        prefix = f"{CONSTANTS}."
        if value.path.startswith(prefix):
            return Held(prefix + self.constant(value.path.removeprefix(prefix)))
        return Held(self._paths[value.path])

    def _take(self, node: str, layer: Layer, path: str | None) -> None:
        if path is None:
            return
        self.layers[node] = path
        for leaf, weight in layer.tensors.items():
            self.slots[f"{path}.{leaf}"] = Slot(weight.name, weight.transposed)

    def _taken(self, path: str) -> bool:
        return path in self.layers.values() or path in self.slots

    def _free(self, path: str) -> str:
        """The path, or one like it where it or what is in it is something else."""
        parents = path.split(".")
        if any(".".join(parents[:i]) in self.slots for i in range(1, len(parents))):
            path = path.replace(".", "_")
        while self._taken(path) or any(slot.startswith(f"{path}.") for slot in self.slots):
            path += "_"
        return path


def _paths(layer: Layer, full: bool) -> list[str]:
    """What the initializers say: `<path>.<leaf>`."""
    found = [_prefix(weight, leaf) for leaf, weight in layer.tensors.items()]
    if full and (len(set(found)) > 1 or None in found):
        return []
    return [path for path in found if path]


def _prefix(weight: Weight, leaf: str) -> str | None:
    path = weight.name.removesuffix(f".{leaf}")
    return path if path != weight.name and path == _torch_name(path) else None


def _alone(name: str) -> str:
    """A path for a tensor of no layer. Where an exporter named it by an operation, the next one may do so again."""
    path = _torch_name(name)
    base = re.sub(r"(_default)?(_\d+)*$", "", path)
    computed = "." not in path and (
        base == "val" or hasattr(torch.ops.aten, base) or hasattr(torch.ops.prims, base)
    )
    return f"onnx_weights.{path}" if computed else path


def _torch_name(name: str) -> str:
    """A dotted path of nonempty parts."""
    parts = re.split(r"[./]+", name.replace("::", "_"))
    return ".".join(part for part in parts if part) or "unnamed"
