"""Weights of a model from a local file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tta_agent.core.errors import ConfigError

KEYS = ("state_dict", "model", "model_state_dict", "net")  # of training checkpoints


def read(path: Path) -> dict[str, Tensor]:
    """State dict of a `.safetensors` file or a torch checkpoint.

    Raises:
        ConfigError: no such file, or no state dict in it.
    """
    if not path.is_file():
        raise ConfigError(f"TTA_MODEL__WEIGHTS={path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise whatever the reader meets first
        told = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise ConfigError(f"TTA_MODEL__WEIGHTS={path} cannot be read as weights: {told}") from None
    return _tensors(state, path)


def _tensors(state: Any, path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint: itself, or what lies under one of `KEYS`."""
    for key in KEYS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        what = (
            f"holds {', '.join(map(str, list(state)[:5]))}" if isinstance(state, Mapping) else "holds no dict"
        )
        raise ConfigError(
            f"TTA_MODEL__WEIGHTS={path} {what}; expected a state dict of tensors, or one under {', '.join(KEYS)}"
        )
    return dict(state)


def fill(module: nn.Module, state: dict[str, Tensor], path: Path | None) -> None:
    """Load weights into a module, in place; a prefix of all names that the module does not know is taken off.

    Raises:
        ConfigError: a tensor is missing, unexpected or of another shape.
    """
    while prefix := _foreign_prefix(module, state):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    _refuse_sizes(module, state, path)
    missing, unexpected = module.load_state_dict(state, strict=False)
    lost = [key for key in missing if not key.endswith("num_batches_tracked")]
    if lost or unexpected:
        what = f"{lost[0]!r} is missing" if lost else f"{unexpected[0]!r} is not in the model"
        raise ConfigError(
            f"TTA_MODEL__WEIGHTS={path} does not fit the model: {what} "
            f"({len(lost)} missing, {len(unexpected)} unexpected of {len(state)})"
        )


def _foreign_prefix(module: nn.Module, state: Mapping[str, Tensor]) -> str:
    """First part that all names share and the module does not have, of a wrapper or a trainer; else empty."""
    prefixes = {name.partition(".")[0] + "." for name in state}
    own = any(name.startswith(tuple(prefixes)) for name in module.state_dict())
    shared = len(prefixes) == 1 and all("." in name for name in state)
    return prefixes.pop() if shared and not own else ""


def _refuse_sizes(module: nn.Module, state: Mapping[str, Tensor], path: Path | None) -> None:
    """Raise ConfigError where a tensor has another shape; where only the head has, with the number of classes."""
    own = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    pairs = [(n, list(t.shape), own[n]) for n, t in state.items() if n in own and list(t.shape) != own[n]]
    if not pairs:
        return
    told = f"TTA_MODEL__WEIGHTS={path} does not fit the model: {pairs[0][0]} has shape {pairs[0][1]} there, "
    told += f"{pairs[0][2]} in the model"
    heads = {(held[0], has[0]) for _, held, has in pairs if held and has and held[1:] == has[1:]}
    if len(heads) == 1 and all(held and held[1:] == has[1:] for _, held, has in pairs):
        [(classes, others)] = heads
        told += f";\nthe weights are of {classes} classes, the model has {others}: TTA_MODEL__CLASSES={classes} with "
        told += f"TTA_MODEL__NAME, or a factory that makes {classes}"
    else:
        told += f" ({len(pairs)} of {len(state)} tensors differ in shape)"
    raise ConfigError(told)
