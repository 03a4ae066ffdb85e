"""Settings to the deployed model and to the copy that adapts."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tta_agent.adaptation.sliding_window import Window
from tta_agent.adaptation.step import Adaptation
from tta_agent.core import plugins
from tta_agent.core.protocols import Adapter
from tta_agent.core.types import SourceInfo
from tta_agent.models import loader
from tta_agent.models.batchnorm import census
from tta_agent.models.device import Accelerator
from tta_agent.models.onnx_export import floats
from tta_agent.models.source_data import read_source_data
from tta_agent.settings.schema import Settings
from tta_agent.telemetry.facade import Telemetry


def load_source(settings: Settings) -> loader.DeployedModel:
    """The deployed model, on its device."""
    torch.set_num_threads(settings.model.threads)
    m = settings.model
    return loader.load(
        m.name,
        m.factory,
        m.weights,
        onnx=m.onnx,
        shape=m.input_shape,
        classes=m.classes,
        output=m.output,
        mean=m.mean,
        std=m.std,
        device=m.device,
    )


def make_adaptation(settings: Settings, source: loader.DeployedModel, telemetry: Telemetry) -> Adaptation:
    """The adapter with its selectors and schedules; the frozen one in mode observe."""
    s = settings
    name = method(settings)
    adapter = make_adapter(settings, source, name)
    own: Mapping[str, Mapping[str, Any]] = getattr(adapter, "selectors", {})
    chosen = list(own) if s.select.selectors is None else s.select.selectors
    options = {one: {**own.get(one, {}), **s.select.options.get(one, {})} for one in chosen}
    selectors = [plugins.make("selectors", one, options) for one in chosen]
    schedules = [plugins.make("schedules", one, s.schedule.options) for one in s.schedule.schedules]
    if s.adapt.window:
        coupled = bool(census(source.module).get("BatchNorm"))
        adapter = Window(adapter, s.adapt.window, coupled=coupled)
    accelerator = Accelerator(source.device, s.adapt.precision, s.adapt.memory)
    return Adaptation(adapter, source.module, selectors, accelerator, telemetry, name, schedules)


def method(settings: Settings) -> str:
    """Name of the adapter; the frozen one in mode observe."""
    return "frozen" if settings.mode == "observe" else settings.adapt.method


def make_adapter(settings: Settings, source: loader.DeployedModel, name: str) -> Adapter:
    """The adapter, with facts about the source where it asks for them."""
    asks = "origin" in inspect.signature(plugins.load("adapters", name)).parameters
    known = {"origin": load_source_info(settings, source)} if asks else {}
    options = {name: {**known, **settings.adapt.options.get(name, {})}}
    adapter: Adapter = plugins.make("adapters", name, options, source.module)
    return adapter


def load_source_info(settings: Settings, source: loader.DeployedModel) -> SourceInfo:
    """Facts about the source besides its weights: of its pixels, and data where the settings name some."""
    path = settings.model.source_data
    if path is None:
        return SourceInfo(source.mean, source.std)
    inputs, labels = read_source_data(path, source.shape, source.mean, source.std)
    on_device = torch.from_numpy(inputs).to(source.device)
    classes = None if labels is None else torch.from_numpy(labels).to(source.device)
    return SourceInfo(source.mean, source.std, on_device, classes, settings.store.path / "source")


def fingerprint(module: nn.Module) -> str:
    """Name of a model by its weights."""
    digest = hashlib.sha256()
    tensors: Mapping[str, torch.Tensor] = floats(module)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def describe(settings: Settings, source: loader.DeployedModel) -> str:
    """One line for the start: mode, method, model, device, stream."""
    device = torch.cuda.get_device_name(source.device) if source.device.type == "cuda" else "CPU"
    model = settings.model.name or settings.model.factory or settings.model.onnx
    where = settings.stream.bootstrap_servers or f"embedded log in {settings.store.path}"
    return (
        f"mode {settings.mode}, {settings.adapt.method} on {model}, copy on {source.device} ({device}, "
        f"{settings.model.threads} threads), stream {settings.stream.topic} from {where}"
    )
