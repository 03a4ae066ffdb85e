"""The images of a scene, drawn and corrupted once for all its worlds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tta_agent.core.types import Array
from tta_agent.rehearsal.arrivals import UNKNOWN_SHARE
from tta_agent.rehearsal.pool import LEARN, Pool
from tta_agent.rehearsal.shifts import mixed, strangers
from tta_agent.rehearsal.worlds import Scene

LATER = 1000  # added to the seed of what is held out: other noise than where something was learnt


@dataclass(frozen=True, slots=True)
class Stage:
    """Inputs to learn from [L + U, ...] and held-out [G + V, ...], strangers last; labels [L], [G] of the known."""

    learn: Array
    learn_labels: Array
    held: Array
    held_labels: Array


@dataclass(frozen=True, slots=True)
class Images:
    """Where the images come from.

    Attributes:
        pool: known ones.
        window: held-out records of the evidence.
        held: held-out images for the true gain.
        others: pixels uint8 [M, C, S, S] of no known class; made of known ones where None.
    """

    pool: Pool
    window: int
    held: int
    others: Array | None = None

    def stage(self, scene: Scene) -> Stage:
        """All images that the worlds of a scene are made of."""
        learn, held = self._drawn(scene)
        parts = [
            self._shifted(rows, self._unknown(scene, count), scene, seed)
            for rows, count, seed in (
                (learn, len(learn), scene.seed),
                (held, self.window, scene.seed + LATER),
            )
        ]
        return Stage(parts[0], self.pool.labels[learn], parts[1], self.pool.labels[held])

    def elsewhere(self, scene: Scene) -> Array:
        """Inputs [L, ...] of the other world, from which its copy learns."""
        family, severity = scene.elsewhere
        pixels = self.pool.pixels[self._drawn(scene)[0]]
        return self.pool.inputs(mixed(pixels, (family,), severity, scene.seed + 7))

    def _drawn(self, scene: Scene) -> tuple[Array, Array]:
        """Rows of the pool to learn from, and held-out ones; again and again, where there are too few."""
        rows = np.random.default_rng([scene.seed, 1]).permutation(len(self.pool.labels))
        cut = round(LEARN * len(rows))
        return np.resize(rows[:cut], scene.length), np.resize(rows[cut:], self.held)

    def _unknown(self, scene: Scene, count: int) -> int:
        return round(UNKNOWN_SHARE * count) if "unknown" in scene.structures else 0

    def _shifted(self, rows: Array, unknown: int, scene: Scene, seed: int) -> Array:
        pixels = np.concatenate([self.pool.pixels[rows], self._strangers(rows, unknown, seed)])
        return self.pool.inputs(mixed(pixels, scene.families, scene.severity, seed))

    def _strangers(self, rows: Array, count: int, seed: int) -> Array:
        if not count:
            return self.pool.pixels[:0]
        if self.others is None:
            return strangers(self.pool.pixels[np.resize(rows, count)], seed)
        return self.others[np.random.default_rng(seed).permutation(len(self.others))[:count]]
