"""Whole numbers as input of a torch module: ids of words, for which it has an embedding.

Inside the agent all inputs are float32, which holds whole numbers up to 2^24 exactly. A module that looks ids up gets
a hook in front that makes whole numbers of them; the exported graph takes int64, as the module does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tta_agent.models.probe_inputs import random_inputs


class ToWholeNumbers:
    """Forward pre-hook: the input as int64, rounded, and limited to what the module can look up."""

    def __init__(self, limits: tuple[int, int]) -> None:
        self._limits = limits

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs, the first of them as whole numbers."""
        x, *others = inputs
        return (x.round().clamp(*self._limits).long() if x.is_floating_point() else x, *others)


@torch.no_grad()
def take_ids(module: nn.Module, shape: tuple[int, ...], device: torch.device) -> None:
    """Have a module that looks its input up in an embedding take float32; any other stays as it is.

    Args:
        shape: of one sample.
    """
    if getattr(module, "input_range", None) is not None or not _looks_up(module, shape, device):
        return
    rows = min(m.num_embeddings for m in module.modules() if isinstance(m, nn.Embedding))
    module.input_range = (0, rows - 1)  # type: ignore[assignment]
    module.register_forward_pre_hook(ToWholeNumbers((0, _rows_asked(module, shape, device) - 1)))


def as_taken(module: nn.Module, x: Tensor) -> Tensor:
    """Inputs in the type that a module takes by itself, without its hook."""
    hooks = (hook for hook in module._forward_pre_hooks.values() if isinstance(hook, ToWholeNumbers))
    for hook in hooks:
        (x,) = hook(module, (x,))
    return x


def _looks_up(module: nn.Module, shape: tuple[int, ...], device: torch.device) -> bool:
    """Whether whole numbers are taken, and others are not."""
    if not any(isinstance(m, nn.Embedding) for m in module.modules()):
        return False
    x = torch.from_numpy(np.abs(random_inputs(module, 2, shape))).to(device)
    return not _answers(module, x) and _answers(module, torch.zeros_like(x, dtype=torch.int64))


def _rows_asked(module: nn.Module, shape: tuple[int, ...], device: torch.device) -> int:
    """Rows of the embedding that the input is looked up in, rather than positions."""
    asked: list[int] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].shape == (2, *shape):
            asked.append(int(layer.num_embeddings))  # type: ignore[arg-type]

    layers = [m for m in module.modules() if isinstance(m, nn.Embedding)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    module(torch.zeros(2, *shape, dtype=torch.int64, device=device))
    for hook in hooks:
        hook.remove()
    return asked[0] if asked else min(layer.num_embeddings for layer in layers)


def _answers(module: nn.Module, x: Tensor) -> bool:
    try:
        module(x)
    except Exception:  # a module of the user's
        return False
    return True
