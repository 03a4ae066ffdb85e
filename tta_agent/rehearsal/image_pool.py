"""Labelled images of a rehearsal, split: those of the anchor set never arrive in a scenario."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tta_agent.core.errors import ConfigError
from tta_agent.core.evidence import AnchorResult
from tta_agent.core.types import Array
from tta_agent.evaluation.anchor_set import AnchorSet, stratified
from tta_agent.evaluation.rehearsed.features import CLEAN, lights
from tta_agent.models.source_data import standardised

LEARN = 0.45  # share of a scenario's images that a copy learns from; the others are held out
ANCHOR = 0.2  # share of a small set that becomes the anchor, at most
LEAST = 100  # images below which nothing is learnt about gains


@dataclass(frozen=True, slots=True)
class ImagePool:
    """Pixels uint8 [N, C, S, S] and labels [N], with the mean and deviation of the model's inputs."""

    pixels: Array
    labels: Array
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def inputs(self, pixels: Array) -> Array:
        """Inputs float32 [N, C, S, S] of pixels, as the model takes them."""
        return standardised(pixels, self.mean, self.std)

    def part(self, rows: Array) -> ImagePool:
        """Pool of some rows."""
        return ImagePool(self.pixels[rows], self.labels[rows], self.mean, self.std)


@dataclass(frozen=True, slots=True)
class RehearsalAnchor:
    """Anchor set of a rehearsal: inputs [A, ...] by corruption, and labels [A]."""

    views: Mapping[str, Array]
    labels: Array

    def compare(self, serving: Mapping[str, Array], candidate: Mapping[str, Array]) -> AnchorResult:
        """Evidence of both models' logits [A, C] by corruption, as the gates see it."""
        return AnchorResult(self.labels, serving, candidate)


def pooled(inputs: Array, labels: Array | None, mean: tuple[float, ...], std: tuple[float, ...]) -> ImagePool:
    """Make a pool of inputs [N, C, S, S] as the model takes them.

    Raises:
        ConfigError: no labels, too few, or no square images: shifts are made of pixels.
    """
    if labels is None:
        raise ConfigError(
            "rehearsing needs labels: an .npz with `inputs` and `labels`, or a folder for each class"
        )
    if inputs.ndim != 4 or inputs.shape[1] not in (1, 3) or inputs.shape[2] != inputs.shape[3]:
        raise ConfigError(
            f"rehearsing needs square grey or colour images [N, C, S, S], not {list(inputs.shape)}: "
            "shifts are made of pixels"
        )
    if len(inputs) < LEAST:
        raise ConfigError(
            f"{len(inputs)} labelled images: rehearsing needs {LEAST}, and is good from 1,000 on"
        )
    centre, scale = (np.asarray(v, np.float32).reshape(1, -1, 1, 1) for v in (mean, std))
    pixels = np.clip(np.rint((inputs * scale + centre) * 255), 0, 255).astype(np.uint8)
    return ImagePool(pixels, labels, mean, std)


def split(pool: ImagePool, anchor_images: int, seed: int = 0) -> tuple[ImagePool, RehearsalAnchor]:
    """Split a pool into the images of scenarios and the anchor set, which is drawn as `AnchorSet.read` draws it."""
    count = min(anchor_images, round(ANCHOR * len(pool.labels)))
    chosen = stratified(pool.labels, count, seed)
    others = np.setdiff1d(np.arange(len(pool.labels)), chosen)
    return pool.part(others), anchor_of(pool.part(chosen))


def anchor_of(pool: ImagePool) -> RehearsalAnchor:
    """Make an anchor set of a whole pool, with the light corruptions that evidence is taken on."""
    views = AnchorSet(pool.inputs(pool.pixels), pool.labels, pool.mean, pool.std).views()
    return RehearsalAnchor({name: views[name] for name in (CLEAN, *lights(views))}, pool.labels)
