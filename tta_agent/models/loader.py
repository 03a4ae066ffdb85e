"""Loader of the deployed model: a timm name or an import path with local weights, or the served ONNX file alone."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tta_agent.core import extras, plugins
from tta_agent.core.errors import ConfigError, nearest
from tta_agent.core.task import Task
from tta_agent.core.types import Array
from tta_agent.models import checkpoints, memory_layout, onnx_import, probing, python_module
from tta_agent.models.outputs import LOGITS, ModelOutput
from tta_agent.models.source_data import read_source_data
from tta_agent.models.whole_numbers import take_ids

Floats = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class DeployedModel:
    """The deployed model.

    Attributes:
        module: inference mode, on `device`; answers logits [N, C].
        shape: of one sample.
        classes: number of them, or of labels.
        mean, std: how pixels in 0 .. 1 became inputs, per channel: x = (pixel - mean) / std.
        graph: the graph of the served file, where the model was built from it.
        output: the output that is the answer, as it is served.
    """

    module: nn.Module
    shape: tuple[int, ...]
    classes: int
    device: torch.device
    mean: Floats = (0.0,)
    std: Floats = (1.0,)
    graph: onnx_import.Graph | onnx_import.UnfoldedGraph | None = None
    output: ModelOutput = LOGITS


def load(
    name: str | None,
    factory: str | None,
    weights: Path | None,
    *,
    onnx: Path | None = None,
    shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    output: str | None = None,
    mean: Floats | None = None,
    std: Floats | None = None,
    device: str = "auto",
    sites: str = "auto",
    source_data: Path | None = None,
    task: Task | None = None,
) -> DeployedModel:
    """Build the model and load its weights.

    Args:
        name: timm name. Exactly one of `name`, `factory` and `onnx`.
        factory: import path of a callable without required arguments.
        weights: local .safetensors or torch checkpoint; required with `name`, none with `onnx`.
        onnx: the served file.
        shape: of one sample; asked from the model where None.
        classes: number of them, as it should be; asked from the model's answer.
        output: name of the output that is the answer; where None, the only one of its form.
        mean, std: of the preprocessing, per channel or one for all; timm models know theirs, else 0 and 1.
        device: auto, cpu, cuda or cuda:N.
        sites: layers of the ONNX file into which a normalisation was folded: auto, none, or names.
        source_data: source inputs, from which the statistics of the sites are taken.
        task: multiclass, binary or multilabel; decided by the answers where None.

    Raises:
        ConfigError: with the setting to change.
    """
    _one_of(name, factory, onnx, weights)
    served = None
    if onnx is not None:
        served = onnx_import.load(onnx, shape, output)
        module, output = served.module, served.output
    else:
        state = checkpoints.read(weights) if weights else None
        module = _from_timm(name, state, classes) if name is not None else _from_factory(str(factory))
        if state is not None:
            checkpoints.fill(module, state, weights)
        setting = f"TTA_MODEL__FACTORY={factory}" if name is None else f"TTA_MODEL__NAME={name}"
        module = python_module.settled(module, setting)
    where = pick_device(device)
    module = module.to(where).eval().requires_grad_(False)
    shape = shape or _shape(module)
    probing.refuse_absurd_sample(shape, "TTA_MODEL__INPUT_SHAPE: the model")
    if served is None:
        take_ids(module, shape, where)
    memory_layout.choose(module, shape, where)
    answer, found = probing.find(module, shape, where, output, task)
    if classes not in (None, found):
        raise ConfigError(
            f"TTA_MODEL__CLASSES={classes}: {onnx or factory or name} answers with {answer.counted(found)}"
        )
    centre, scale = _pixels(module, shape, mean, std)
    graph = None
    if served is not None and onnx is not None:
        read = functools.partial(_source_inputs, source_data, shape, centre, scale)
        graph = onnx_import.restore(served, onnx, sites, read)
    return DeployedModel(module, shape, found, where, centre, scale, graph, answer)


def pick_device(device: str) -> torch.device:
    """Torch device by name; `auto` is cuda where there is one.

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


def _source_inputs(path: Path | None, shape: tuple[int, ...], mean: Floats, std: Floats) -> Array | None:
    return None if path is None else read_source_data(path, shape, mean, std)[0]


def _one_of(name: str | None, factory: str | None, onnx: Path | None, weights: Path | None) -> None:
    if sum(way is not None for way in (name, factory, onnx)) != 1:
        raise ConfigError(
            "name the model that is deployed: TTA_MODEL__NAME=<timm name> with TTA_MODEL__WEIGHTS=<file>,\n"
            "or TTA_MODEL__FACTORY=<module:callable>, or TTA_MODEL__ONNX=<the served file> (one of the three)"
        )
    if onnx is not None and weights is not None:
        raise ConfigError(f"TTA_MODEL__WEIGHTS={weights}: the ONNX file holds its weights; give only one")


def _from_timm(name: str, state: dict[str, Tensor] | None, classes: int | None) -> nn.Module:
    extras.require("timm", f"TTA_MODEL__NAME={name}")
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
    return without_caches(timm.create_model(name, pretrained=False, **extra))


class _NoCache(dict[str, Tensor]):
    """A cache that is written anew each time: the parameters behind it may learn, and belong into the graph."""

    def __contains__(self, key: object) -> bool:
        return False


def without_caches(module: nn.Module) -> nn.Module:
    """The module, its attention biases looked up at every call (LeViT, TinyViT and EfficientFormer keep them)."""
    for part in module.modules():
        if isinstance(getattr(part, "attention_bias_cache", None), dict):
            part.attention_bias_cache = _NoCache()  # type: ignore[assignment]
    return module


def _from_factory(path: str) -> nn.Module:
    try:
        module = plugins.import_path(path)()
    except ConfigError as error:
        raise ConfigError(f"TTA_MODEL__FACTORY={path}: {error}") from None
    except Exception as error:  # it is the user's
        told = (str(error) or "no message").partition("\n")[0]
        raise ConfigError(f"TTA_MODEL__FACTORY={path} fails: {type(error).__name__}: {told}") from error
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"TTA_MODEL__FACTORY={path} gave a {type(module).__name__}, expected a torch.nn.Module"
        )
    return python_module.unwrapped(module, f"TTA_MODEL__FACTORY={path}")


def _shape(module: nn.Module) -> tuple[int, ...]:
    shape = getattr(module, "input_shape", None) or getattr(module, "default_cfg", {}).get("input_size")
    if shape is None:
        raise ConfigError("TTA_MODEL__INPUT_SHAPE is needed: the model does not say the shape of a sample")
    return tuple(int(n) for n in shape)


def _pixels(
    module: nn.Module, shape: tuple[int, ...], mean: Floats | None, std: Floats | None
) -> tuple[Floats, Floats]:
    known = getattr(module, "default_cfg", {})
    unit = 1.0 if getattr(module, "input_range", None) is None else 1 / 255  # whole numbers are the pixels
    channels = 1 if getattr(module, "channels_last", False) else shape[0]  # they are broadcast along axis 1
    centre = _per_channel("MEAN", mean, known.get("mean"), 0.0, channels)
    scale = _per_channel("STD", std, known.get("std"), unit, channels)
    if min(scale) <= 0:
        raise ConfigError(
            f"TTA_MODEL__STD={list(scale)}: expected numbers above 0, inputs are divided by them"
        )
    return centre, scale


def _per_channel(what: str, given: Floats | None, known: Any, otherwise: float, channels: int) -> Floats:
    if given is not None:
        if len(given) not in (1, channels):
            raise ConfigError(
                f"TTA_MODEL__{what}={list(given)}: expected 1 number, or {channels}, one for each channel"
            )
        return tuple(given) * (channels if len(given) == 1 else 1)
    if known is not None and len(known) == channels:
        return tuple(float(v) for v in known)
    return (otherwise,) * channels
