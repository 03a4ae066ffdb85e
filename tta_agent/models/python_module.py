"""A torch module as somebody's code makes it: wrappers taken off, in single precision, all of its weights there."""

from __future__ import annotations

import logging
from typing import cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from tta_agent.core.errors import ConfigError

SERVED_FILE = "name the served file instead: TTA_MODEL__ONNX=<file>"
log = logging.getLogger(__name__)


def unwrapped(module: nn.Module, what: str) -> nn.Module:
    """The module inside `torch.compile`, DataParallel and DistributedDataParallel, which export cannot trace.

    Args:
        what: the setting with its value, for messages.

    Raises:
        ConfigError: a TorchScript module, whose layers cannot be replaced.
    """
    while (inner := _inner(module)) is not None:
        log.info("%s: the module inside %s is taken", what, type(module).__name__)
        module = inner
    if isinstance(module, torch.jit.ScriptModule):
        raise ConfigError(
            f"{what} gave a TorchScript module, whose layers cannot be replaced;\n"
            f"give the Python module that it was made from, or {SERVED_FILE}"
        )
    return module


def settled(module: nn.Module, what: str) -> nn.Module:
    """The module, its weights loaded, in single precision: adaptation adds up what half precision rounds away.

    Raises:
        ConfigError: layers without weights.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    if empty := [name for name, tensor in tensors if is_lazy(tensor)]:
        raise ConfigError(
            f"{what}: {len(empty)} tensors of lazy layers have no values, {empty[0]!r} first;\n"
            f"load the deployed weights in the factory, or by TTA_MODEL__WEIGHTS, or {SERVED_FILE}"
        )
    kinds = {str(tensor.dtype).removeprefix("torch.") for _, tensor in tensors if tensor.is_floating_point()}
    if other := sorted(kinds - {"float32"}):
        log.info("%s computes in %s: its copy and its versions are in float32", what, ", ".join(other))
        module = module.float()
    return module


def _inner(module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return cast(nn.Module, module.module)
    inner = getattr(module, "_orig_mod", None)  # of torch.compile
    return inner if isinstance(inner, nn.Module) else None
