"""Images of a group of scenarios, drawn and corrupted once for all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tta_agent.core.types import Array
from tta_agent.rehearsal.arrivals import UNKNOWN_SHARE
from tta_agent.rehearsal.image_pool import LEARN, ImagePool
from tta_agent.rehearsal.scenarios import ScenarioGroup
from tta_agent.rehearsal.shifts import mixed, strangers

LATER = 1000  # added to the seed of held-out images: other noise than in those that a copy learns from


@dataclass(frozen=True, slots=True)
class SampledImages:
    """Inputs to learn from [L + U, ...] and held-out ones [G + V, ...], unknown classes last; labels [L], [G]."""

    learn: Array
    learn_labels: Array
    held: Array
    held_labels: Array


@dataclass(frozen=True, slots=True)
class ImageSampler:
    """Sampler of corrupted images.

    Attributes:
        pool: labelled images.
        window: held-out records of the evidence.
        held: held-out images for the true gain.
        others: pixels uint8 [M, C, S, S] of unknown classes; made of the labelled ones where None.
    """

    pool: ImagePool
    window: int
    held: int
    others: Array | None = None

    def sample(self, group: ScenarioGroup) -> SampledImages:
        """Images of all scenarios of a group."""
        learn, held = self._drawn(group)
        parts = [
            self._shifted(rows, self._unknown(group, count), group, seed)
            for rows, count, seed in (
                (learn, len(learn), group.seed),
                (held, self.window, group.seed + LATER),
            )
        ]
        return SampledImages(parts[0], self.pool.labels[learn], parts[1], self.pool.labels[held])

    def elsewhere(self, group: ScenarioGroup) -> Array:
        """Inputs [L, ...] of the other shift, from which the copy from elsewhere learns."""
        family, severity = group.elsewhere
        pixels = self.pool.pixels[self._drawn(group)[0]]
        return self.pool.inputs(mixed(pixels, (family,), severity, group.seed + 7))

    def _drawn(self, group: ScenarioGroup) -> tuple[Array, Array]:
        """Rows of the pool to learn from, and held-out ones; repeated where there are too few."""
        rows = np.random.default_rng([group.seed, 1]).permutation(len(self.pool.labels))
        cut = round(LEARN * len(rows))
        return np.resize(rows[:cut], group.length), np.resize(rows[cut:], self.held)

    def _unknown(self, group: ScenarioGroup, count: int) -> int:
        return round(UNKNOWN_SHARE * count) if "unknown" in group.structures else 0

    def _shifted(self, rows: Array, unknown: int, group: ScenarioGroup, seed: int) -> Array:
        pixels = np.concatenate([self.pool.pixels[rows], self._strangers(rows, unknown, seed)])
        return self.pool.inputs(mixed(pixels, group.families, group.severity, seed))

    def _strangers(self, rows: Array, count: int, seed: int) -> Array:
        if not count:
            return self.pool.pixels[:0]
        if self.others is None:
            return strangers(self.pool.pixels[np.resize(rows, count)], seed)
        return self.others[np.random.default_rng(seed).permutation(len(self.others))[:count]]
