"""Inspection of a served ONNX file: can it adapt, by what, at which cost, and if not, why not and what to do.

Everything is tried for real: the module is built and compared with the file, every adapter takes a round on random
inputs, and a version is made and compared with the copy that it was made from.
"""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from tta_agent.core import plugins
from tta_agent.core.errors import ConfigError, TtaError
from tta_agent.core.types import Selection
from tta_agent.models import loader, obstacles, weight_delta
from tta_agent.models.batchnorm import affine, census
from tta_agent.models.obstacles import Obstacle, Port
from tta_agent.models.onnx_export import GraphTemplate, answers, raw_answers
from tta_agent.models.onnx_import import UnfoldedGraph, refusal
from tta_agent.models.onnx_import.limits import refuse_too_long
from tta_agent.models.onnx_import.reading import INSTEAD
from tta_agent.models.ort_sessions import open_session, raw_answer, run
from tta_agent.models.outputs import ModelOutput
from tta_agent.models.probe_inputs import random_inputs
from tta_agent.models.probing import raw
from tta_agent.models.site_layers import SiteNorm

SAMPLES = 8  # of a round
TRIES = 3  # forward passes, of which the quickest counts
SOURCE = "--source-data, TTA_MODEL__SOURCE_DATA: some hundred unlabelled inputs from before the shift"
NEEDS_SOURCE = "--source-data, TTA_MODEL__SOURCE_DATA: the layers get statistics from it"
log = logging.getLogger(__name__)


@dataclass(slots=True)
class ModelReport:
    """Findings about a file; what could not be found out is left at its start.

    Attributes:
        operators: number of nodes by operator.
        answer: output, kind, classes, and whether the copy learns on the logits before it.
        layers: normalisation layers by kind; `unfolded` ones have been folded at export.
        parameters: in all, and scale and shift that most methods move.
        adapters: reason why each cannot be used, or None.
        parity: largest difference of module and file, and of a version and its copy after a round, in units of
            the largest logit.
        cost: milliseconds a sample of a forward pass of the copy, and of the file in ONNX Runtime; MiB at the peak.
        version: bytes of a version, and of the whole file.
    """

    file: str
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    operators: dict[str, int] = field(default_factory=dict)
    answer: dict[str, Any] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    adapters: dict[str, str | None] = field(default_factory=dict)
    parity: dict[str, float] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    version: dict[str, int] = field(default_factory=dict)
    obstacles: list[Obstacle] = field(default_factory=list)

    @property
    def adapts(self) -> bool:
        """Whether an adapter that changes anything can be used."""
        return any(reason is None for name, reason in self.adapters.items() if name != "frozen")


def inspect(path: Path, adapters: Sequence[str] | None = None, **options: Any) -> ModelReport:
    """Inspect a file.

    Args:
        adapters: names of those to try; all that are installed where None.
        options: of `loader.load`: shape, output, mean, std, device, sites, source_data.
    """
    report = ModelReport(str(path))
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the report says it
    try:
        _inspect(report, path, adapters, options)
    except TtaError as error:
        found, _, remedy = str(error).partition(";\n")
        report.obstacles.append(Obstacle(found.removeprefix(f"TTA_MODEL__ONNX={path}").lstrip(": "), remedy))
    except Exception as error:  # what a file makes the libraries raise is not ours to foresee
        told = str(error).partition("\n")[0][:200]
        report.obstacles.append(Obstacle(f"{type(error).__name__}: {told}", INSTEAD))
    finally:
        logging.disable(level)
    return report


def _inspect(
    report: ModelReport, path: Path, adapters: Sequence[str] | None, options: Mapping[str, Any]
) -> None:
    refuse_too_long(path)
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:  # damaged files raise whatever the reader meets first
        raise ConfigError(
            f"it cannot be read as an ONNX file: {str(error).partition(chr(10))[0][:200]};\nname the served file"
        ) from None
    report.inputs, report.outputs = obstacles.ports(proto)
    report.operators = dict(obstacles.operators(proto).most_common())
    report.obstacles = obstacles.find(proto, path, options.get("shape"))
    if report.obstacles:
        return
    source = _loaded(report, path, options)
    _of_model(report, source)
    _adapters(report, source, plugins.available("adapters") if adapters is None else adapters)
    _cost(report, source, path)


def _loaded(report: ModelReport, path: Path, options: Mapping[str, Any]) -> loader.DeployedModel:
    """The model; without source data where these do not fit."""
    try:
        return loader.load(None, None, None, onnx=path, **options)
    except ConfigError as error:
        if not str(error).startswith("TTA_MODEL__SOURCE_DATA"):
            raise
        report.obstacles.append(Obstacle(str(error), "name inputs as the model takes them"))
        return loader.load(None, None, None, onnx=path, **{**options, "source_data": None})


def _of_model(report: ModelReport, source: loader.DeployedModel) -> None:
    module = source.module
    cut = getattr(module, "cut_at", None) is not None
    output = source.output
    report.answer = {
        "output": output.name,
        "kind": output.kind,
        "task": output.task,
        "classes": source.classes,
        "logits_before": cut,
    }
    report.layers = census(module)
    unfolded = sum(isinstance(layer, SiteNorm) for layer in module.modules())
    if unfolded:
        report.layers["unfolded"] = unfolded
        report.layers["BatchNorm"] -= unfolded
        report.layers = {kind: n for kind, n in report.layers.items() if n}
    moving = sum(p.numel() for p in affine(module).values())
    report.parameters = {"all": sum(p.numel() for p in module.parameters()), "scale and shift": moving}


def _adapters(report: ModelReport, source: loader.DeployedModel, names: Sequence[str]) -> None:
    for name in names:
        report.adapters[name] = refusal(name, source.module, source.shape)
    bare = isinstance(source.graph, UnfoldedGraph) and not report.layers.get("unfolded")
    for reason in report.adapters.values():
        if reason is not None:
            remedy = NEEDS_SOURCE if bare or not report.layers else "take another of the adapters"
            report.obstacles.append(Obstacle(reason.partition(";")[0], remedy))
    if bare:
        found = f"{report.layers['scale and shift']} BatchNorms are folded: only their scale and shift can adapt, "
        report.obstacles.append(Obstacle(f"{found}which without statistics may lose accuracy", SOURCE))


def _cost(report: ModelReport, source: loader.DeployedModel, path: Path) -> None:
    x = random_inputs(source.module, SAMPLES, source.shape)
    session = open_session(path, output=ModelOutput(source.output.name, source.output.kind))
    if source.graph and isinstance(
        session.get_inputs()[0].shape[0], int
    ):  # the file insists on a size of batch
        session = open_session(source.graph.patched({}), output=source.output, data=source.graph.data)
    served = raw_answers(raw(source.module), x, source.output.name)
    report.parity["file"] = apart(raw_answer(session, x), served)
    report.cost["copy_ms"] = _quickest(lambda: answers(source.module, x)) / SAMPLES
    report.cost["file_ms"] = _quickest(lambda: run(session, x)) / SAMPLES
    able = [name for name in ("tent", "norm", *report.adapters) if report.adapters.get(name, "") is None]
    if able:
        _version(report, source, able[0], x)
    report.cost["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _version(report: ModelReport, source: loader.DeployedModel, name: str, x: np.ndarray[Any, Any]) -> None:
    template = GraphTemplate(source.module, source.shape, source.graph)
    adapter = plugins.make("adapters", name, {}, source.module)
    batch = torch.from_numpy(x).to(source.device)
    everyone = Selection(torch.arange(len(x), device=source.device), torch.ones(len(x), device=source.device))
    adapter.step(batch, adapter.forward(batch).float(), everyone)
    served = adapter.servable()
    graph = template.compose(served)
    expected = raw_answers(raw(served), x, source.output.name)
    session = open_session(graph, output=source.output, data=template.data)
    report.parity["version"] = apart(raw_answer(session, x), expected)
    delta = weight_delta.changed(template.compose(source.module), graph)
    report.version = {
        "bytes": len(graph if delta is None else delta),
        "file": len(graph) + (template.data.size if template.data else 0),
    }


def _quickest(call: Any) -> float:
    """Milliseconds of the quickest of some calls."""
    taken = []
    for _ in range(TRIES):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return 1000 * min(taken)


def apart(expected: np.ndarray[Any, Any], got: np.ndarray[Any, Any]) -> float:
    """Largest difference of logits [N, C], in units of the largest; above 1 only."""
    return float(np.abs(expected - got).max() / max(1.0, float(np.abs(expected).max())))
