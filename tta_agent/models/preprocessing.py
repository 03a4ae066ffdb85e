"""Preparations of logged inputs and of images, and the share of labels that the model answers rightly with each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from tta_agent.core import task
from tta_agent.core.errors import ConfigError
from tta_agent.core.types import Array

Way = Literal["as_is", "div255", "div255_mean_std", "mean_std"]
LOOKED_AT = 200  # labelled images
GAIN = 0.1  # of all images, that must be named rightly with other constants, and are not with the model's
SLACK = 0.02  # of pixels in 0 .. 1, for rounding
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
        """The sample [C, ...] as the model takes it."""
        y = x / np.float32(255) if self.way.startswith("div255") else x
        if not self.way.endswith("mean_std"):
            return y
        return np.asarray((y - self._along(self.mean, x)) / self._along(self.std, x), np.float32)

    def of_batch(self, x: Array) -> Array:
        """Inputs [N, C, ...], each prepared."""
        return np.stack([self(one) for one in x])

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


def check_labelled(
    ask: Callable[[Array], Array],
    x: Array,
    labels: Array,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    setting: str,
) -> None:
    """Check that labelled images are prepared as the model takes them, by its answers to at most 200 of them.

    Args:
        ask: logits [N, C] of the deployed model.
        x: inputs [N, C, ...] as they are about to be used.
        labels: classes [N], or for each label whether it holds, [N, L].
        mean, std: with which pixels became inputs.
        setting: variable or option that names the images, for messages.

    Raises:
        ConfigError: with the constants of a well-known model it answers far more of them rightly.
    """
    rows = np.random.default_rng(0).permutation(len(x))[:LOOKED_AT]
    x, labels = x[rows], labels[rows]
    pixels = _pixels(x, mean, std)
    if pixels is None:
        return
    right = {"": task.correct(ask(x), labels)}
    for centre, scale in COMMON.values():
        if len(centre) in (1, x.shape[1]):
            named = f"TTA_MODEL__MEAN={_listed(centre)} TTA_MODEL__STD={_listed(scale)}"
            right[named] = task.correct(ask(Preparation("mean_std", centre, scale).of_batch(pixels)), labels)
    best = max(right, key=lambda name: right[name].mean())
    if not _far_better(right[best], right[""]):
        return
    raise ConfigError(
        f"{setting}: with TTA_MODEL__MEAN={_listed(mean)} TTA_MODEL__STD={_listed(std)} the model names "
        f"{right[''].mean():.0%} of {len(x)} images rightly, with other constants {right[best].mean():.0%}:\n{best}\n"
        "or give float inputs as the model takes them; TTA_MODEL__CHECK_SERVED=false goes on without this check"
    )


def _far_better(one: Array, other: Array) -> bool:
    """Whether more are right by a tenth of all, and by five standard errors of the paired difference."""
    gained, lost = int((one & ~other).sum()), int((other & ~one).sum())
    return gained - lost >= GAIN * len(one) and gained - lost >= 5 * np.sqrt(gained + lost)


def _pixels(x: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array | None:
    """Pixels 0 .. 1 that became these inputs, or that they are; None where they are neither."""
    if x.ndim < 3:
        return None
    along = (1, -1, *[1] * (x.ndim - 2))
    centre, scale = (np.asarray(values, np.float32).reshape(along) for values in (mean, std))
    for pixels in (x * scale + centre, x, x / np.float32(255)):
        if pixels.min() >= -SLACK and pixels.max() <= 1 + SLACK and pixels.max() > 10 * SLACK:
            return np.asarray(pixels)
    return None


def _short(values: tuple[float, ...]) -> tuple[float, ...]:
    return values[:1] if len(set(values)) == 1 else values


def _listed(values: tuple[float, ...]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"
