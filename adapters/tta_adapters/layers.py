"""Which normalisation layers stay as they are: the rule that SAR and DeYO share.

Niu et al. (SAR, ICLR 2023, arXiv 2302.12400) and Lee et al. (DeYO, ICLR 2024, arXiv 2403.07366) leave the deepest
normalisation layers alone, which are the most sensitive. Their code finds them by substrings of module names, and
so finds nothing in most architectures. Three rules:

    "last"     by structure (the default): the last of the stages of a convolutional net, or the last three of the
               equal blocks of a transformer, and in both cases every layer that comes after
    "literal"  by name, as in their code: what contains layer4, blocks.9, blocks.10, blocks.11 or "norm.", or is
               called "norm": stage 4 of ResNets and blocks 9 to 11 and the last norm of timm's ViT-B
    "none"     every layer learns

Stages are siblings: modules of one parent whose names differ in a number only (layer1 .. layer4, stages.0 ..
stages.3, block1 .. block3, encoder_layer_0 ..), of which at least two hold a normalisation layer and other weights,
and which together hold most normalisation layers. Siblings whose parameters have equal shapes are blocks. A net
without such siblings has no stages, and nothing is left out. Where a rule would leave nothing to learn, every layer
learns, with a warning.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from torch import nn

from tta_adapters.learner import Choose, Parameters
from tta_agent.models.batchnorm import affine

Rule = Literal["last", "literal", "none"]
BLOCKS = 3  # of a transformer are left out
LITERAL = ("layer4", "blocks.9", "blocks.10", "blocks.11", "norm.")
log = logging.getLogger(__name__)


def outside(rule: Rule) -> Choose:
    """Scale and shift of the normalisation layers that the rule does not leave out.

    Raises:
        ValueError: no such rule.
    """
    if rule not in _RULES:
        raise ValueError(f"layers {rule!r} is none of 'last', 'literal', 'none'")

    def choose(model: nn.Module) -> Parameters:
        every = affine(model)
        names = list(dict.fromkeys(_layer(name) for name in every))
        skipped = set(_RULES[rule](model, names))
        kept = {name: parameter for name, parameter in every.items() if _layer(name) not in skipped}
        if skipped and not kept:
            log.warning("layer rule %r would leave out every normalisation layer: all of them learn", rule)
            return every
        log.info("layer rule %r leaves out %d of %d normalisation layers", rule, len(skipped), len(names))
        return kept

    return choose


def deepest(model: nn.Module, names: Sequence[str]) -> Sequence[str]:
    """Of the normalisation layers `names` (in order): those of the last stage or blocks, and what comes after."""
    stages = _stages(model, names)
    if not stages:
        return ()
    shapes = {tuple(p.shape for p in model.get_submodule(stage).parameters()) for stage in stages}
    first = stages[-BLOCKS:][0] if len(shapes) == 1 else stages[-1]
    return names[next(i for i, name in enumerate(names) if name.startswith(first + ".")) :]


def literal(model: nn.Module, names: Sequence[str]) -> Sequence[str]:
    """By the names of the original."""
    return [name for name in names if name == "norm" or any(part in name for part in LITERAL)]


def _stages(model: nn.Module, names: Sequence[str]) -> Sequence[str]:
    """Names of the outermost siblings that hold most of the normalisation layers, in order; empty if none do."""
    groups: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    held: defaultdict[tuple[str, str], int] = defaultdict(int)
    for path, module in model.named_modules():
        inside = [name for name in names if name.startswith(path + ".")]
        parent, _, leaf = path.rpartition(".")
        if inside and leaf[-1:].isdigit() and _has_more(module):
            siblings = (parent, re.sub(r"\d+$", "", leaf))
            groups[siblings].append(path)
            held[siblings] += len(inside)
    fit = [group for key, group in groups.items() if len(group) > 1 and 2 * held[key] > len(names)]
    return min(fit, key=lambda group: group[0].count("."), default=[])


def _has_more(module: nn.Module) -> bool:
    """Weights besides those of normalisation."""
    return len(list(module.parameters())) > len(affine(module))


def _layer(parameter: str) -> str:
    return parameter.rpartition(".")[0]


_RULES: Mapping[str, Callable[[nn.Module, Sequence[str]], Sequence[str]]] = {
    "last": deepest,
    "literal": literal,
    "none": lambda model, names: (),
}
