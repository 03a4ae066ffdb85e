"""Preparations of logged inputs and of images, and the share of labels that the model answers rightly with each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from tta_agent.core.types import Array

Way = Literal["as_is", "div255", "div255_mean_std", "mean_std"]
WAYS: tuple[Way, ...] = ("as_is", "div255", "div255_mean_std", "mean_std")
Constants: TypeAlias = tuple[
    tuple[float, ...], tuple[float, ...]
]  # mean and std of pixels in 0 .. 1, per channel
COMMON: Mapping[str, Constants] = {  # of published models, for messages: nothing is taken from here
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CLIP": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "0.5": ((0.5,), (0.5,)),
    "none": ((0.0,), (1.0,)),
}


@dataclass(frozen=True, slots=True)
class Preparation:
    """One way from a logged input to what the model takes.

    Attributes:
        way: as_is, div255 (x / 255), div255_mean_std ((x / 255 - mean) / std), or mean_std ((x - mean) / std).
        mean, std: of pixels in 0 .. 1, per channel or one for all.
    """

    way: Way = "as_is"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __call__(self, x: Array) -> Array:
        """Inputs [N, C, ...] or a sample [C, ...] without the batch axis, whose first axis but N is the channel's."""
        y = x / np.float32(255) if self.way.startswith("div255") else x
        if not self.way.endswith("mean_std"):
            return y
        return np.asarray((y - self._along(self.mean, x)) / self._along(self.std, x), np.float32)

    @staticmethod
    def _along(values: tuple[float, ...], sample: Array) -> Array:
        return np.asarray(values, np.float32).reshape(-1, *[1] * (sample.ndim - 1))


def ways(mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Preparation]:
    """Different ways by the model's constants, by name; those that come to the same are there once."""
    plain = not any(mean) and all(value == 1 for value in std)
    return {way: Preparation(way, mean, std) for way in WAYS if not (plain and way.endswith("mean_std"))}


def others(mean: tuple[float, ...], std: tuple[float, ...], channels: int) -> dict[str, Preparation]:
    """Ways by constants of well-known models that are not the model's, by words for a message."""
    found: dict[str, Preparation] = {}
    for centre, scale in COMMON.values():
        if (
            len(centre) not in (1, channels)
            or (centre, scale) == (_short(mean), _short(std))
            or not any(centre)
        ):
            continue
        named = f"TTA_MODEL__MEAN={_listed(centre)} TTA_MODEL__STD={_listed(scale)}"
        for way in ("div255_mean_std", "mean_std"):
            found[f"{way} with {named}"] = Preparation(way, centre, scale)
    return found


def agreement(
    ask: Callable[[Array], Array], x: Array, labels: Array, prepared: Mapping[str, Preparation]
) -> dict[str, float]:
    """Share of labelled inputs [N, ...] that the model names rightly, by way."""
    found = {}
    for name, prepare in prepared.items():
        answers = ask(np.stack([prepare(one) for one in x]))
        found[name] = float((answers.argmax(1) == labels).mean())
    return found


def _short(values: tuple[float, ...]) -> tuple[float, ...]:
    return values[:1] if len(set(values)) == 1 else values


def _listed(values: tuple[float, ...]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"
