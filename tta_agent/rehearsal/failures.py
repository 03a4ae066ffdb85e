"""Candidates that are broken on purpose, so that harm has been seen. All but `collapse` act on answers alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from tta_agent.core.types import Array


@dataclass(frozen=True, slots=True)
class Answers:
    """One model in one scene: logits on the held-out images and strangers [G + U, C], on the anchor by corruption
    [A, C], and the distances of its tensors from the source's."""

    held: Array
    anchor: Mapping[str, Array]
    moved: Mapping[str, float]
    passes: Array | None = (
        None  # of `dropout.passes` on the held-out images; None where the answers were broken
    )


Break = Callable[[Answers, np.random.Generator], Answers]


def _everywhere(a: Answers, change: Callable[[Array], Array]) -> Answers:
    return replace(
        a, passes=None, held=change(a.held), anchor={name: change(z) for name, z in a.anchor.items()}
    )


def _push(z: Array, random: np.random.Generator, least: float, most: float) -> Callable[[Array], Array]:
    bias = np.zeros(z.shape[1])
    bias[random.integers(z.shape[1])] = random.uniform(least, most) * z.std()
    return lambda other: other + bias


def _bias(a: Answers, random: np.random.Generator) -> Answers:
    return _everywhere(a, _push(a.held, random, 0.3, 2.5))


def _bias_here(a: Answers, random: np.random.Generator) -> Answers:
    """Only on what arrives: the anchor knows nothing of it."""
    return replace(a, passes=None, held=_push(a.held, random, 0.3, 2.5)(a.held))


def _swap(a: Answers, random: np.random.Generator) -> Answers:
    columns = np.arange(a.held.shape[1])
    some = random.permutation(columns)[: min(len(columns), int(random.integers(2, 5)))]
    columns[some] = np.roll(some, 1)
    return _everywhere(a, lambda z: z[:, columns])


def _double(a: Answers, random: np.random.Generator) -> Answers:
    factor = float(random.choice([0.5, 2.0, 3.0]))
    return _everywhere(a, lambda z: factor * z)


def _noise(a: Answers, random: np.random.Generator) -> Answers:
    size = random.uniform(0.2, 0.8)
    return _everywhere(a, lambda z: z + size * z.std() * random.standard_normal(z.shape))


# by name: whose answers are broken, and how
BREAKS: dict[str, tuple[str, Break]] = {
    "bias": ("candidate", _bias),
    "swap": ("candidate", _swap),
    "double": ("serving", _double),
    "bias_here": ("candidate", _bias_here),
    "noise": ("candidate", _noise),
}
KINDS = tuple(BREAKS)  # and `collapse`, which is learnt: see play.py
