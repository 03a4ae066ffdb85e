"""Unfolding: normalisation layers again behind the layers into which an exporter folded them.

A folded layer answers y = gamma (c - mu) / sigma + beta. Over the source its mean is beta and its deviation |gamma|,
so source inputs give back what folding threw away, and batch normalisation with the statistics of a target is

    (y - mean_t) / sd_t * sd_s + mean_s

Others put a normalisation back in the same way, to repair what quantisation has moved: weight = sd_s and bias =
mean_s behind a folded layer, folded again afterwards, is the batch-norm tuning of Hubara, Nahshan, Hanani, Banner,
Soudry, "Accurate Post Training Quantization With Small Calibration Sets" (ICML 2021, arXiv 2006.10518). The shift
alone is the bias correction of Nagel, van Baalen, Blankevoort, Welling, "Data-Free Quantization Through Weight
Equalization and Bias Correction" (ICCV 2019, arXiv 1906.04721), who take beta and gamma from a BatchNorm that is
still there. They correct towards the source; here the statistics follow the target.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from tta_agent.core.errors import ConfigError
from tta_agent.core.types import Array
from tta_agent.models.data_files import DataFiles
from tta_agent.models.onnx_import.module import OnnxModule, Ref, Step
from tta_agent.models.onnx_import.naming import Slot
from tta_agent.models.onnx_import.proof import Graph
from tta_agent.models.onnx_import.sites import watched
from tta_agent.models.site_layers import Site, SiteAffine, SiteNorm, scale_and_shift

MOST = 1024  # source inputs: more do not change the statistics
BATCH = 32  # inputs of one forward pass
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UnfoldedGraph:
    """The file's own graph under the names of a module with sites; what they learn is folded into their layers.

    Attributes:
        graph: of the module without sites.
        sites: by path of the layer before; copies, as they start.
        names: path of the site by path of the layer.
        start: weights and biases of the layers as they are in the file, by name.
    """

    graph: Graph
    sites: Mapping[str, Site]
    names: Mapping[str, str]
    start: Mapping[str, Tensor]

    @property
    def tolerance(self) -> float:
        """That of the graph without sites."""
        return self.graph.tolerance

    @property
    def data(self) -> DataFiles | None:
        """Those of the graph without sites."""
        return self.graph.data

    @property
    def slots(self) -> Mapping[str, Slot]:
        """Initializer of each tensor; of a site's, that which it is folded into."""
        found = dict(self.graph.slots)
        for layer, site in self.sites.items():
            for leaf in site.state_dict():
                into = "bias" if leaf in ("bias", "running_mean") else "weight"
                found[f"{self.names[layer]}.{leaf}"] = found[f"{layer}.{into}"]
        return found

    def patched(self, tensors: Mapping[str, Tensor]) -> bytes:
        """The graph with these tensors of the module's state dict, serialised.

        Raises:
            GraphError: a name that the module does not have, or another shape.
        """
        left = dict(tensors)
        for layer, site in self.sites.items():
            now = {n: t.detach().cpu() for n, t in site.state_dict().items()}
            given = {leaf: left.pop(f"{self.names[layer]}.{leaf}", None) for leaf in now}
            now |= {leaf: t.detach().cpu() for leaf, t in given.items() if t is not None}
            names = {leaf: f"{layer}.{leaf}" for leaf in ("weight", "bias")}
            weight, bias = (left.get(n, self.start[n]).detach().cpu() for n in names.values())
            scale, shift = scale_and_shift(now, site)
            left[names["weight"]] = weight * scale.view(-1, *[1] * (weight.dim() - 1)).to(weight.dtype)
            left[names["bias"]] = (bias * scale + shift).to(bias.dtype)
        return self.graph.patched(left)


def unfold(module: OnnxModule, graph: Graph, paths: Sequence[str], inputs: Array | None) -> UnfoldedGraph:
    """Put a site behind each of these layers, in place.

    Args:
        module: that answers as the file does, inference mode.
        graph: of the module.
        paths: of convolutions and linear layers with a bias.
        inputs: [N, ...] of the source, of which at most MOST are used; None: sites of scale and shift only.

    Returns:
        The graph that folds the sites.

    Raises:
        ConfigError: a layer answers numbers that are not finite to the inputs.
    """
    moments = {} if inputs is None or not paths else statistics(module, paths, inputs)
    state = module.state_dict()
    sites: dict[str, Site] = {}
    names = {}
    for path in paths:
        bias = state[f"{path}.bias"]
        sites[path] = SiteNorm(*moments[path]) if moments else SiteAffine(len(bias), bias.device, bias.dtype)
        names[path] = _put_behind(module, path, sites[path])
    start = {n: state[n].detach().cpu().clone() for p in paths for n in (f"{p}.weight", f"{p}.bias")}
    return UnfoldedGraph(
        graph, {path: copy.deepcopy(site).cpu() for path, site in sites.items()}, names, start
    )


@torch.no_grad()
def statistics(module: OnnxModule, paths: Sequence[str], inputs: Array) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and unbiased variance [channels] of what the layers answer to the inputs, over all places.

    Raises:
        ConfigError: one of them is not finite.
    """
    found = {path: _Moments() for path in paths}
    device = next(module.parameters()).device
    for x in _batches(inputs):
        watched(module, paths, lambda path, answer: found[path].take(answer), torch.from_numpy(x).to(device))
    moments = {path: moments.result() for path, moments in found.items()}
    bad = [path for path, (mean, var) in moments.items() if not (mean.isfinite() & var.isfinite()).all()]
    if bad:
        raise ConfigError(
            f"TTA_MODEL__SOURCE_DATA: layer {bad[0]!r} answers numbers that are not finite; expected inputs as the "
            "model takes them"
        )
    return moments


def _batches(inputs: Array) -> Iterable[Array]:
    """At most MOST of the inputs, evenly spread: files are often sorted by class."""
    chosen = inputs[np.linspace(0, len(inputs) - 1, min(len(inputs), MOST)).astype(np.int64)]
    return (np.ascontiguousarray(chosen[i : i + BATCH]) for i in range(0, len(chosen), BATCH))


class _Moments:
    """Mean and variance by channel over batches, in double precision."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0
        self.dtype = torch.float32

    def take(self, answer: Tensor) -> None:
        """One more batch [B, channels, ...]."""
        values = answer.detach().double().transpose(0, 1).flatten(1)
        count, mean = values.shape[1], values.mean(1)
        away = mean - self.mean
        total = self.count + count
        self.squares = (
            self.squares + ((values - mean[:, None]) ** 2).sum(1) + away**2 * (self.count * count / total)
        )
        self.mean = self.mean + away * (count / total)
        self.count, self.dtype = total, answer.dtype

    def result(self) -> tuple[Tensor, Tensor]:
        """Mean and unbiased variance [channels]."""
        assert isinstance(self.mean, Tensor) and isinstance(self.squares, Tensor)
        return self.mean.to(self.dtype), (self.squares / max(self.count - 1, 1)).to(self.dtype)


def _put_behind(module: OnnxModule, path: str, site: nn.Module) -> str:
    """Path of the site, which takes what the layer answers."""
    name = f"{path}_norm"
    while name in dict(module.named_modules()):
        name += "_"
    module.place(name, site)
    steps: list[Step] = []
    for step in module.steps:
        if step.call != path:
            steps.append(step)
            continue
        (out,) = step.outputs
        inner = f"{out}/folded"
        steps.append(replace(step, outputs=(inner,)))
        steps.append(Step(name, (Ref(inner),), (out,), last=(inner,)))
    module.steps = tuple(steps)
    return name
