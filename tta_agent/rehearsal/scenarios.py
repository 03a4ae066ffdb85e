"""Scenarios of a rehearsal: shift families by severity, each with several orders of arrival.

A *group* of scenarios is one shift at one severity, a draw of images, and another shift for copies that come from
elsewhere (second swaps, stale statistics). Its scenarios share the corrupted images, which makes them cheap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from tta_agent import corruptions
from tta_agent.rehearsal.shifts import EXTRA

CLEAN = "clean"
SEVERITIES = (1, 3, 5)
STRUCTURES = ("iid", "correlated", "label_shift", "unknown")
LENGTHS = (448, 640, 896)  # records that a copy learns from
MIXTURES = (
    ("gaussian_noise", "defocus_blur"), ("fog", "jpeg_compression"), ("snow", "contrast", "pixelate"),
    ("brightness", "impulse_noise", CLEAN), ("motion_blur", "frost"),
)  # fmt: skip
COLLAPSES = 4  # one group in so many has a copy driven to collapse, which costs as much as four others
CLEAN_SHARE = 7  # one group in so many has no shift: there the right answer is to keep the source


@dataclass(frozen=True, slots=True)
class ScenarioGroup:
    """Scenarios that share one shift and one draw of images.

    Attributes:
        families: a random one of these for each image; one name, but in mixtures.
        severity: 1 to 5; `clean` has 1.
        seed: of images, pixels and orders of arrival.
        elsewhere: shift (family, severity) of the copy that comes from another scenario.
        length: records that a copy learns from.
        structures: orders of arrival, of `STRUCTURES`.
        failures: kinds of injected failures, see `failures.KINDS`.
    """

    families: tuple[str, ...]
    severity: int
    seed: int
    elsewhere: tuple[str, int] = ("contrast", 3)
    length: int = 768
    structures: tuple[str, ...] = STRUCTURES
    failures: tuple[str, ...] = field(default=())

    @property
    def family(self) -> str:
        """Name of the shift in tables: `mixture` where there are several."""
        return self.families[0] if len(self.families) == 1 else "mixture"

    @property
    def key(self) -> str:
        """Digest of everything that its rows depend on."""
        text = repr(self).replace(type(self).__name__, "Scene", 1)  # rows on disk have keys of that name
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def bank(
    families: Sequence[str] = (*corruptions.NAMES, *EXTRA),
    severities: Sequence[int] = SEVERITIES,
    seeds: Sequence[int] = (0, 1),
    structures: Sequence[str] = STRUCTURES,
    failures: Sequence[str] = (),
) -> list[ScenarioGroup]:
    """Groups of a rehearsal, in an order of which every beginning is spread evenly over families and severities.

    Args:
        structures: two of these are played in each group, in turn.
        failures: three of these, and in some groups a collapse; none where empty.
    """
    rounds = [(seed, k) for seed in seeds for k in range(len(severities))]
    every = min(CLEAN_SHARE, len(families))
    groups: list[ScenarioGroup] = []
    for turn, (seed, k) in enumerate(rounds):
        for i, family in enumerate(families):
            severity = severities[(i + k) % len(severities)]  # a Latin square: each round has all severities
            other = families[(i + 5 + 3 * turn) % len(families)]
            groups.append(_group((family,), severity, seed, other, len(groups), structures, failures))
            if i % every == every // 2:  # among the others, so that a small budget has some too
                other = families[(2 * i + turn) % len(families)]
                clean = 100 * seed + 10 * k + i // every
                groups.append(_group((CLEAN,), 1, clean, other, len(groups), structures, failures))
        mixed = MIXTURES[turn % len(MIXTURES)]
        severity = severities[turn % len(severities)]
        groups.append(
            _group(mixed, severity, seed, families[turn % len(families)], len(groups), structures, failures)
        )
    return groups


def _group(
    families: tuple[str, ...],
    severity: int,
    seed: int,
    other: str,
    number: int,
    structures: Sequence[str],
    failures: Sequence[str],
) -> ScenarioGroup:
    elsewhere = (other, SEVERITIES[(number // 2) % 3])
    orders = tuple(
        dict.fromkeys(structures[(number + i * (1 + number // 4 % 3)) % len(structures)] for i in (0, 1))
    )
    broken = (
        tuple(dict.fromkeys(failures[(3 * number + i) % len(failures)] for i in range(3))) if failures else ()
    )
    if number % COLLAPSES == 0:
        broken = (*broken, "collapse") if failures else ()
    return ScenarioGroup(families, severity, seed, elsewhere, LENGTHS[number % len(LENGTHS)], orders, broken)
