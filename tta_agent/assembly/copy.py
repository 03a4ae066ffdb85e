"""Settings to the deployed model and to the copy that adapts."""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from tta_agent.adaptation.sliding_window import Window
from tta_agent.adaptation.step import Adaptation
from tta_agent.core import plugins
from tta_agent.core.errors import ConfigError
from tta_agent.core.protocols import Adapter
from tta_agent.core.types import SourceInfo
from tta_agent.models import loader
from tta_agent.models.batchnorm import census
from tta_agent.models.device import Accelerator
from tta_agent.models.misfit import misfit
from tta_agent.models.onnx_export import floats
from tta_agent.models.onnx_import import can_adapt
from tta_agent.models.site_layers import SiteAffine, SiteNorm
from tta_agent.models.source_data import read_source_data
from tta_agent.settings.data_groups import Options
from tta_agent.settings.schema import Settings
from tta_agent.telemetry.facade import Telemetry

log = logging.getLogger(__name__)


def load_source(settings: Settings, *, learns: bool = True) -> loader.DeployedModel:
    """The deployed model, on its device; one that does not learn needs no sites, and is the same to the registry."""
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
        sites=m.sites if learns else "none",
        source_data=m.source_data,
        task=None if m.task == "auto" else m.task,
    )


def make_adaptation(settings: Settings, source: loader.DeployedModel, telemetry: Telemetry) -> Adaptation:
    """The adapter with its selectors and schedules; the frozen one in mode observe."""
    s, name = settings, method(settings)
    info = functools.cache(lambda: load_source_info(settings, source))
    setting = f"TTA_ADAPT__METHOD={name}:"
    _refuse_misfit(plugins.load("adapters", name), setting, source)
    adapter: Adapter = _make("adapters", name, s.adapt.options, info, source.module)
    _refuse_misfit(adapter, setting, source)
    own: Mapping[str, Mapping[str, Any]] = getattr(adapter, "selectors", {})
    named = list(own) if s.select.selectors is None else s.select.selectors
    chosen = list(dict.fromkeys([*s.select.screen, *named]))
    options = {one: {**own.get(one, {}), **s.select.options.get(one, {})} for one in chosen}
    selectors = [_make("selectors", one, options, info) for one in chosen]
    for one, selector in zip(chosen, selectors, strict=True):
        by_adapter = s.select.selectors is None and one in own
        of = f"{setting} its selector" if by_adapter else "TTA_SELECT__SELECTORS:"
        _refuse_misfit(selector, f"{of} {one!r}", source)
    schedules = [plugins.make("schedules", one, s.schedule.options) for one in s.schedule.schedules]
    adapter = _windowed(adapter, s.adapt.window, coupled=bool(census(source.module).get("BatchNorm")))
    accelerator = Accelerator(source.device, s.adapt.precision, s.adapt.memory)
    return Adaptation(adapter, source.module, selectors, accelerator, telemetry, name, schedules)


def _refuse_misfit(plugin: object, what: str, source: loader.DeployedModel) -> None:
    """Raise ConfigError, with the adapters that fit, where a plugin cannot be used with the model."""
    shape, last = source.shape, getattr(source.module, "channels_last", False)
    if (reason := misfit(plugin, shape, source.output.task, channels_last=last)) is None:
        return
    could = [name for name in can_adapt(source.module, shape) if name != "frozen"]
    told = f"adapters that fit it: {', '.join(could)}" if could else "only TTA_ADAPT__METHOD=frozen fits it"
    raise ConfigError(f"{what} {reason};\n{told}")


def _windowed(adapter: Adapter, size: int, *, coupled: bool) -> Adapter:
    """The adapter behind a sliding window of this size; of 0: of the smallest batch that it needs."""
    least = getattr(adapter, "smallest_batch", 1)
    if not size and least > 1:
        log.info(
            "rounds of fewer than %d records are answered together with those before, and learnt from once there are "
            "as many (TTA_ADAPT__WINDOW=1 takes each alone; a longer TTA_ADAPT__MAX_WAIT_S makes larger rounds)",
            least,
        )
    size = size or least
    return Window(adapter, size, coupled=coupled) if size > 1 else adapter


def method(settings: Settings) -> str:
    """Name of the adapter; the frozen one in mode observe."""
    return "frozen" if settings.mode == "observe" else settings.adapt.method


def _make(kind: plugins.Kind, name: str, options: Options, info: Callable[[], SourceInfo], *args: Any) -> Any:
    """A plugin, with facts about the source where its constructor has a parameter `origin`."""
    asks = "origin" in inspect.signature(plugins.load(kind, name)).parameters
    known = {"origin": info()} if asks else {}
    return plugins.make(kind, name, {name: {**known, **options.get(name, {})}}, *args)


def load_source_info(settings: Settings, source: loader.DeployedModel) -> SourceInfo:
    """Facts about the source besides its weights: of its pixels, and data where the settings name some."""
    path = settings.model.source_data
    if path is None:
        return SourceInfo(source.mean, source.std)
    sets = source.output.task == "multilabel"
    inputs, labels = read_source_data(
        path, source.shape, source.mean, source.std, classes=source.classes, label_sets=sets
    )
    on_device = torch.from_numpy(inputs).to(source.device)
    classes = None if labels is None else torch.from_numpy(labels).to(source.device)
    return SourceInfo(source.mean, source.std, on_device, classes, settings.store.path / "source")


def fingerprint(module: nn.Module, *, sites: bool = False) -> str:
    """Name of a model by its weights; with `sites` also by their statistics, which are not in the served file."""
    digest = hashlib.sha256()
    without = [
        f"{n}." for n, m in module.named_modules() if isinstance(m, SiteNorm | SiteAffine) and not sites
    ]
    tensors: Mapping[str, torch.Tensor] = floats(module)
    for name in sorted(n for n in tensors if not n.startswith(tuple(without))):
        digest.update(name.encode())
        digest.update(tensors[name].cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def describe(settings: Settings, source: loader.DeployedModel) -> str:
    """One line for the start: mode, method, model, device, stream."""
    device = torch.cuda.get_device_name(source.device) if source.device.type == "cuda" else "CPU"
    model = settings.model.name or settings.model.factory or settings.model.onnx
    places = {"kafka": settings.stream.bootstrap_servers, "http": "what is posted to this agent"}
    where = places.get(settings.stream.kind, f"embedded log in {settings.store.path}")
    return (
        f"mode {settings.mode}, {settings.adapt.method} on {model}, task {source.output.task} of "
        f"{source.output.counted(source.classes)}, copy on {source.device} ({device}, "
        f"{settings.model.threads} threads), stream {settings.stream.topic} from {where}"
    )
