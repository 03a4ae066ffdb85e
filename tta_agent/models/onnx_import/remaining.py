"""Normalisation that an exporter folded away: unfolded where source inputs are given, and told where not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from tta_agent.core import plugins
from tta_agent.core.types import Array, Selection
from tta_agent.models.batchnorm import census
from tta_agent.models.misfit import misfit_of_adapter
from tta_agent.models.onnx_import.module import OnnxModule
from tta_agent.models.onnx_import.proof import Graph, OnnxModel
from tta_agent.models.onnx_import.sites import NONE, chosen, plain
from tta_agent.models.onnx_import.unfold import MOST, UnfoldedGraph, unfold
from tta_agent.models.probe_inputs import random_inputs
from tta_agent.models.probing import output_of
from tta_agent.scoring.sample_scores import all_finite

TRIED = 4  # samples of the round by which an adapter is tried
log = logging.getLogger(__name__)


def can_adapt(module: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """Names of the installed adapters that can use the model, by one real round of each on random inputs."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # what an adapter says of random inputs is of no use
    try:
        return [name for name in plugins.available("adapters") if refusal(name, module, shape) is None]
    finally:
        logging.disable(level)


def refusal(name: str, module: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Reason why an adapter cannot use the model, by one real round on random inputs; None where it can."""
    device = next(iter(module.parameters())).device
    x = torch.from_numpy(random_inputs(module, TRIED, shape)).to(device)
    random = torch.get_rng_state()
    try:
        adapter = plugins.make("adapters", name, {}, module)
        last = getattr(module, "channels_last", False)
        if reason := misfit_of_adapter(name, adapter, shape, output_of(module).task, channels_last=last):
            return reason
        everyone = Selection(torch.arange(len(x), device=device), torch.ones(len(x), device=device))
        adapter.step(x, adapter.forward(x).float(), everyone)
        with torch.no_grad():
            finite = all_finite(adapter.servable()(x))
    except Exception as error:  # somebody else's adapter may raise anything: it is none to recommend
        return (str(error).partition("\n")[0] or type(error).__name__)[:200]
    finally:
        torch.set_rng_state(random)
    return None if finite else "its answers are not finite after one round on random inputs"


def restore(
    model: OnnxModel, path: Path, sites: str, source_inputs: Callable[[], Array | None]
) -> Graph | UnfoldedGraph:
    """Unfold the sites of a file, in place, and log what the module has to adapt.

    Args:
        model: its module on the device.
        path: of the file.
        sites: TTA_MODEL__SITES.
        source_inputs: reads inputs [N, ...] of the source, where the settings name some.

    Returns:
        The graph to patch.

    Raises:
        ConfigError: no such layer, or source data that do not fit.
    """
    module = model.module
    assert isinstance(module, OnnxModule)
    inputs = source_inputs() if sites != NONE else None
    paths = chosen(module, model.graph.slots, sites, with_source=inputs is not None)
    if not paths:
        _tell_layers(model, path)
        return model.graph
    graph = unfold(module, model.graph, paths, inputs)
    if inputs is None:
        _warn(model, path, len(paths))
        return graph
    what = (
        "BatchNorms that were folded into its layers are"
        if model.folded
        else "layers without normalisation got one"
    )
    told = "%s: %d %s%s, with statistics of %d source inputs"
    again = " normalisation layers again" if model.folded else ""
    log.info(told, path.name, len(paths), what, again, min(len(inputs), MOST))
    return graph


def _warn(model: OnnxModel, path: Path, sites: int) -> None:
    log.warning(
        "%d BatchNorms were folded into convolutions when %s was exported, and their statistics are gone: scale "
        "and shift are left; these adapters remain: %s. TTA_MODEL__SOURCE_DATA=<some hundred unlabelled inputs from "
        "before the shift> gives the statistics back, from which most of the gain comes, and allows the others; "
        "`tta-agent model source-data` takes them from the stream",
        sites,
        path.name,
        ", ".join(can_adapt(model.module, model.shape)) or "none",
    )


def _tell_layers(model: OnnxModel, path: Path) -> None:
    module = model.module
    has = ", ".join(f"{n} {kind}" for kind, n in census(module).items()) or "no normalisation layer"
    log.info("%s: the torch module built from it answers as it does; it has %s", path.name, has)
    assert isinstance(module, OnnxModule)
    if could := plain(module, model.graph.slots):
        log.info(
            "TTA_MODEL__SOURCE_DATA=<some hundred unlabelled inputs> would give %d layers some", len(could)
        )
