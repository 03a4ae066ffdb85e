"""Sites: layers of a file that carry a normalisation which was folded into them, as far as the file tells.

Exporters and optimisers fold a BatchNorm into the layer before it: a convolution with other weights and a bias. What
they name the result gives it away: a bias of the model's own is called as its weight is (`<path>.weight` and
`<path>.bias`, `conv_w_0` and `conv_b_0`), a folded one is not. In a file of which no name tells, every convolution
with a bias counts that has more than one place and is not only a gate (sigmoid, softmax). In some files a scale and a
shift of the channels behind the convolution are left of a BatchNorm: then these are the sites.

A model that never had a normalisation can be given some: with source inputs all its convolutions are sites, but for
the head, gates, and those of one place.

No site is a layer behind which no other layer comes (the head), one without a bias (folding leaves one, and without
it a shift has no place in the graph), or a linear layer of a model with convolutions, LayerNorm or GroupNorm.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tta_agent.core.errors import ConfigError, nearest
from tta_agent.models.batchnorm import census
from tta_agent.models.onnx_import.module import OnnxModule, Ref, Step, references
from tta_agent.models.onnx_import.naming import Slot
from tta_agent.models.onnx_import.operators import OPERATORS
from tta_agent.models.site_layers import ChannelAffine

Conv = nn.modules.conv._ConvNd
AUTO, NONE = "auto", "none"
_GATES = {torch.sigmoid, F.hardsigmoid, OPERATORS["HardSigmoid"].call, OPERATORS["Softmax"].call}
_FOLDED = re.compile(r"bn|batch_?norm|fused", re.IGNORECASE)
_OWN = re.compile(r"^(weights?|w|kernels?|filters?|conv\dd|bias(es)?|b|biasadd)$", re.IGNORECASE)


def chosen(
    module: OnnxModule, slots: Mapping[str, Slot], wanted: str, *, with_source: bool = True
) -> list[str]:
    """Paths of the layers that are sites.

    Args:
        wanted: TTA_MODEL__SITES: auto, none, or names of layers with wildcards, separated by commas.
        with_source: source inputs are there, by which a model without any normalisation can be given some.

    Raises:
        ConfigError: no layer has such a name, or it cannot be a site.
    """
    if wanted == NONE:
        return []
    if wanted == AUTO:
        return plausible(module, slots) or (plain(module, slots) if with_source else [])
    every, last = [*layers(module), *affines(module)], heads(module)
    able = [path for path in every if f"{path}.bias" in slots and path not in last]
    found: dict[str, None] = {}
    for name in filter(None, (part.strip() for part in wanted.split(","))):
        matched = [path for path in able if fnmatchcase(path, name)]
        if not matched:
            raise ConfigError(f"TTA_MODEL__SITES={name}: {_refusal(name, every, able)}")
        found.update(dict.fromkeys(matched))
    return [path for path in able if path in found]


def _refusal(name: str, every: Sequence[str], able: Sequence[str]) -> str:
    if any(fnmatchcase(path, name) for path in every):
        return "a site needs a bias in the graph, which takes its shift, and is not the head"
    return f"no layer of the file is called so; {nearest(name, [*able, AUTO, NONE])}"


def plausible(module: OnnxModule, slots: Mapping[str, Slot]) -> list[str]:
    """Paths of the layers that seem to carry a folded normalisation, in the order of computation."""
    every, last, left = layers(module), heads(module), affines(module)
    own = {path for path in every if _own_bias(path, slots)}
    biased = [path for path in every if f"{path}.bias" in slots and path not in own and path not in last]
    convs = [path for path in biased if isinstance(module.get_submodule(path), Conv)]
    if not (own or left):
        sizes, gates = places(module), _gates(module)
        convs = [path for path in convs if sizes[path] > 1 and path not in gates]
    return left or convs or _linear(module, biased, slots)


def plain(module: OnnxModule, slots: Mapping[str, Slot]) -> list[str]:
    """Convolutions of a model that never had a normalisation, but for the head and gates."""
    if census(module):
        return []
    sizes, gates, last = places(module), _gates(module), heads(module)
    able = [
        path for path in layers(module) if f"{path}.bias" in slots and path not in gates and path not in last
    ]
    return [path for path in able if sizes[path] > 1 and isinstance(module.get_submodule(path), Conv)]


def _linear(module: OnnxModule, biased: Sequence[str], slots: Mapping[str, Slot]) -> list[str]:
    """Linear layers of a model of nothing else; a transposed weight has another name, and its bias its own."""
    if census(module) or any(isinstance(m, Conv) for m in module.modules()):
        return []
    return [path for path in biased if not slots[f"{path}.bias"].initializer.endswith(".bias")]


def layers(module: OnnxModule) -> list[str]:
    """Paths of convolutions and linear layers, in the order of computation."""
    paths = [step.call for step in module.steps if isinstance(step.call, str)]
    return [path for path in paths if isinstance(module.get_submodule(path), Conv | nn.Linear)]


def affines(module: OnnxModule) -> list[str]:
    """Paths of scales and shifts by channel that stand alone, in the order of computation."""
    paths = [step.call for step in module.steps if isinstance(step.call, str)]
    return [path for path in paths if type(module.get_submodule(path)) is ChannelAffine]


def heads(module: OnnxModule) -> set[str]:
    """Paths of the layers behind which no other layer comes."""
    names, before, found = set(layers(module)), set[str](), set[str]()
    for step in reversed(module.steps):
        is_layer = step.call in names
        if is_layer and not before.intersection(step.outputs):
            found.add(str(step.call))
        if is_layer or before.intersection(step.outputs):
            before |= _taken(step)
    return found


@torch.no_grad()
def places(module: OnnxModule) -> dict[str, int]:
    """Places of the answer to one sample, height times width, by layer."""
    found: dict[str, int] = {}

    def look(path: str, answer: Tensor) -> None:
        found[path] = math.prod(answer.shape[2:])

    device = next(module.parameters()).device
    watched(module, layers(module), look, torch.zeros(1, *module.input_shape, device=device))
    return found


def watched(module: OnnxModule, paths: Sequence[str], look: Callable[[str, Tensor], None], x: Tensor) -> None:
    """Call `look(path, answer)` for each of these layers while the module answers x."""
    hooks = [
        module.get_submodule(path).register_forward_hook(lambda _, __, answer, path=path: look(path, answer))
        for path in paths
    ]
    try:
        module(x)
    finally:
        for hook in hooks:
            hook.remove()


def _gates(module: OnnxModule) -> set[str]:
    """Layers that only a gate follows."""
    users: dict[str, list[Step]] = {}
    for step in module.steps:
        for name in _taken(step):
            users.setdefault(name, []).append(step)
    last = {step.call: users.get(step.outputs[0], []) for step in module.steps if isinstance(step.call, str)}
    return {path for path, steps in last.items() if steps and all(step.call in _GATES for step in steps)}


def _taken(step: Step) -> set[str]:
    return {ref.name for ref in references(step) if isinstance(ref, Ref)}


def _own_bias(path: str, slots: Mapping[str, Slot]) -> bool:
    """Whether the bias is called as its weight is, but for the words for the two."""
    weight, bias = slots[f"{path}.weight"].initializer, slots.get(f"{path}.bias")
    if bias is None or _FOLDED.search(bias.initializer):
        return False
    return _bare(weight) == _bare(bias.initializer)


def _bare(name: str) -> list[str]:
    return ["@" if _OWN.match(part) else part for part in re.split(r"[._/:]+", name)]
