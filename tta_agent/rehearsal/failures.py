"""Injected failures: candidates broken on purpose, so that harm is rehearsed too.

All but `collapse`, which is learnt, change outputs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from tta_agent.core.types import Array


@dataclass(frozen=True, slots=True)
class ModelOutputs:
    """Outputs of one model on the images of a group.

    Attributes:
        held: logits [G + U, C] on the held-out images, those of unknown classes last.
        anchor: logits [A, C] on the anchor set, by corruption.
        moved: distances of the model's tensors from the source's, see `moved.py`.
        passes: of `dropout.passes` on the held-out images; None where the outputs were broken.
    """

    held: Array
    anchor: Mapping[str, Array]
    moved: Mapping[str, float]
    passes: Array | None = None


Break = Callable[[ModelOutputs, np.random.Generator], ModelOutputs]


def _everywhere(a: ModelOutputs, change: Callable[[Array], Array]) -> ModelOutputs:
    return replace(
        a, passes=None, held=change(a.held), anchor={name: change(z) for name, z in a.anchor.items()}
    )


def _push(z: Array, random: np.random.Generator, least: float, most: float) -> Callable[[Array], Array]:
    bias = np.zeros(z.shape[1])
    bias[random.integers(z.shape[1])] = random.uniform(least, most) * z.std()
    return lambda other: other + bias


def _bias(a: ModelOutputs, random: np.random.Generator) -> ModelOutputs:
    return _everywhere(a, _push(a.held, random, 0.3, 2.5))


def _bias_here(a: ModelOutputs, random: np.random.Generator) -> ModelOutputs:
    """Only on records: the anchor set shows nothing of it."""
    return replace(a, passes=None, held=_push(a.held, random, 0.3, 2.5)(a.held))


def _swap(a: ModelOutputs, random: np.random.Generator) -> ModelOutputs:
    columns = np.arange(a.held.shape[1])
    some = random.permutation(columns)[: min(len(columns), int(random.integers(2, 5)))]
    columns[some] = np.roll(some, 1)
    return _everywhere(a, lambda z: z[:, columns])


def _double(a: ModelOutputs, random: np.random.Generator) -> ModelOutputs:
    factor = float(random.choice([0.5, 2.0, 3.0]))
    return _everywhere(a, lambda z: factor * z)


def _noise(a: ModelOutputs, random: np.random.Generator) -> ModelOutputs:
    size = random.uniform(0.2, 0.8)
    return _everywhere(a, lambda z: z + size * z.std() * random.standard_normal(z.shape))


# by name: the model whose outputs are broken, and the function that breaks them
BREAKS: dict[str, tuple[str, Break]] = {
    "bias": ("candidate", _bias),
    "swap": ("candidate", _swap),
    "double": ("serving", _double),
    "bias_here": ("candidate", _bias_here),
    "noise": ("candidate", _noise),
}
KINDS = tuple(BREAKS)  # and `collapse`, which is learnt: see play.py
