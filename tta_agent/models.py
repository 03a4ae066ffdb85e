"""A timm name or an import path, and local weights, to the torch module as deployed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tta_agent import plugins
from tta_agent.errors import ConfigError, nearest


@dataclass(frozen=True, slots=True)
class Source:
    """The deployed model: inference mode, on `device`; `shape` of one sample; number of classes."""

    module: nn.Module
    shape: tuple[int, ...]
    classes: int
    device: torch.device


def load(
    name: str | None,
    factory: str | None,
    weights: Path | None,
    *,
    shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    device: str = "auto",
) -> Source:
    """Build the model and load its weights.

    Args:
        name: timm name. Exactly one of `name` and `factory`.
        factory: import path of a callable without required arguments.
        weights: local .safetensors or torch state dict; required with `name`.
        shape: of one sample; asked from the model where None.
        classes: asked from the model's answer where None.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        ConfigError: with the setting to change.
    """
    if (name is None) == (factory is None):
        raise ConfigError(
            "name the model that is deployed: TTA_MODEL__NAME=<timm name> with TTA_MODEL__WEIGHTS=<file>,\n"
            "or TTA_MODEL__FACTORY=<module:callable> (one of the two)"
        )
    state = _read(weights) if weights else None
    module = _from_timm(name, state, classes) if name is not None else _from_factory(str(factory))
    if state is not None:
        _fill(module, state, weights)
    where = pick_device(device)
    module = module.to(where).eval().requires_grad_(False)
    shape = shape or _shape(module)
    return Source(module, shape, classes or _count_classes(module, shape, where), where)


def pick_device(device: str) -> torch.device:
    """`auto` is cuda where there is one.

    Raises:
        ConfigError: cuda is asked for and not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            there = torch.cuda.device_count()
            raise ConfigError(
                f"TTA_MODEL__DEVICE={device}: {there} CUDA devices are visible; use auto or cpu"
            )
    return torch.device(device)


def _from_timm(name: str, state: dict[str, Tensor] | None, classes: int | None) -> nn.Module:
    import timm

    if not timm.is_model(name.partition(".")[0]):
        raise ConfigError(
            f"TTA_MODEL__NAME={name}: timm has no such model; {nearest(name, timm.list_models())}"
        )
    if state is None:
        raise ConfigError(
            f"TTA_MODEL__NAME={name} needs TTA_MODEL__WEIGHTS=<the deployed weights> (nothing is downloaded)"
        )
    extra: dict[str, Any] = {"num_classes": classes} if classes else {}
    return timm.create_model(name, pretrained=False, **extra)


def _from_factory(path: str) -> nn.Module:
    module = plugins.import_path(path)()
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"TTA_MODEL__FACTORY={path} gave a {type(module).__name__}, expected a torch.nn.Module"
        )
    return module


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ConfigError(f"TTA_MODEL__WEIGHTS={path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise whatever the reader meets first
        raise ConfigError(f"TTA_MODEL__WEIGHTS={path} cannot be read as weights: {error}") from None
    return dict(state.get("state_dict", state))


def _fill(module: nn.Module, state: dict[str, Tensor], path: Path | None) -> None:
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ConfigError(
            f"TTA_MODEL__WEIGHTS={path} does not fit the model: {str(error).splitlines()[-1].strip()}"
        ) from None
    lost = [key for key in missing if not key.endswith("num_batches_tracked")]
    if lost or unexpected:
        what = f"{lost[0]!r} is missing" if lost else f"{unexpected[0]!r} is not in the model"
        raise ConfigError(
            f"TTA_MODEL__WEIGHTS={path} does not fit the model: {what} "
            f"({len(lost)} missing, {len(unexpected)} unexpected of {len(state)})"
        )


def _shape(module: nn.Module) -> tuple[int, ...]:
    shape = getattr(module, "input_shape", None) or getattr(module, "default_cfg", {}).get("input_size")
    if shape is None:
        raise ConfigError("TTA_MODEL__INPUT_SHAPE is needed: the model does not say the shape of a sample")
    return tuple(int(n) for n in shape)


@torch.no_grad()
def _count_classes(module: nn.Module, shape: tuple[int, ...], device: torch.device) -> int:
    try:
        answer = module(torch.zeros(2, *shape, device=device))
    except RuntimeError as error:
        raise ConfigError(f"the model does not take samples of shape {list(shape)}: {error}") from None
    if not isinstance(answer, Tensor) or answer.dim() != 2:
        raise ConfigError("the model must answer logits [batch, classes]: adaptation needs a classifier")
    return int(answer.shape[1])
