"""Protocols: the order in which records arrive, as plain index arrays.

A protocol turns K domains (corruptions) of N images into *segments*, arrays [n, 2] of (domain, image) in order of
arrival. Batches never straddle a segment, and one adapter goes through all segments of a stream.

References:
    Gong et al., "NOTE: Robust Continual Test-time Adaptation Against Temporal Correlation", NeurIPS 2022,
    arXiv:2208.05117 (class runs by Dirichlet shares). Press et al., "RDumb", NeurIPS 2023, arXiv:2306.05401
    (long streams). Gao et al., "Unified Entropy Optimization for Open-Set Test-Time Adaptation", CVPR 2024
    (unknown classes among the known ones).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tta_agent.core.types import Array

UNKNOWN_SHARE = 0.3  # of the records of `unknown`
UNKNOWN = -1  # their label
REPEATS = 20  # of `long`
SLOTS, DELTA = 10, 0.1  # of `correlated`: stretches of time, and how unevenly a class spreads over them
TAIL = 10.0  # of `label_shift`: the most frequent class over the rarest
SINGLE_SHARE = 10  # `single` is slow: it takes one image in so many

Segments = list[Array]


@dataclass(frozen=True, slots=True)
class Deal:
    """Input of a protocol.

    Attributes:
        names: of the domains.
        labels: of the images [N].
        batch: records of one round.
        order: seed of the order of arrival.
        members: images of each domain, where it does not hold all of them.
    """

    names: Sequence[str]
    labels: Array
    batch: int
    order: int
    members: Mapping[str, Array] = field(default_factory=dict)

    def shuffled(self, name: str) -> Array:
        """Permutation of the images of one domain: the same one in every protocol."""
        return self.random(name).permutation(self.members.get(name, np.arange(len(self.labels))))

    def random(self, name: str) -> np.random.Generator:
        """Random generator of this order for the purpose `name`."""
        return np.random.default_rng([self.order, zlib.crc32(name.encode())])

    def sequence(self) -> list[int]:
        """Indices of the domains in order of arrival: as given in order 0, shuffled in the others."""
        given = list(range(len(self.names)))
        return given if not self.order else self.random("domains").permutation(given).tolist()


def _in_turn(deal: Deal, pick: Callable[[str], Array] | None = None) -> Segments:
    pick = pick or deal.shuffled
    return [_of(domain, pick(deal.names[domain])) for domain in deal.sequence()]


def _of(domain: int, images: Array) -> Array:
    return np.stack([np.full(len(images), domain), images], axis=1)


def _correlated(deal: Deal) -> Segments:
    def runs(name: str) -> Array:
        random, images = deal.random(f"{name} runs"), deal.shuffled(name)
        slots: list[list[Array]] = [[] for _ in range(SLOTS)]
        for label in random.permutation(np.unique(deal.labels)):
            mine = images[deal.labels[images] == label]
            cuts = (np.cumsum(random.dirichlet([DELTA] * SLOTS))[:-1] * len(mine)).round().astype(int)
            for slot, part in zip(slots, np.split(mine, cuts), strict=True):
                slot.append(part)
        return np.concatenate([slot[i] for slot in slots for i in random.permutation(len(slot))])

    return _in_turn(deal, runs)


def _label_shift(deal: Deal) -> Segments:
    classes = np.unique(deal.labels)
    ranks = deal.random("classes").permutation(len(classes))
    share = dict(zip(classes.tolist(), TAIL ** (-ranks / max(len(classes) - 1, 1)), strict=True))

    def rare(name: str) -> Array:
        images = deal.shuffled(name)
        kept = [
            images[deal.labels[images] == c][: round(s * np.sum(deal.labels[images] == c))]
            for c, s in share.items()
        ]
        return deal.random(f"{name} rare").permutation(np.concatenate(kept))

    return _in_turn(deal, rare)


def _mixed(deal: Deal) -> Segments:
    return [deal.random("mixed").permutation(np.concatenate(_in_turn(deal)))]


def _single(deal: Deal) -> Segments:
    return [part[: max(len(part) // SINGLE_SHARE, 1)] for part in _in_turn(deal)]


def _long(deal: Deal) -> Segments:
    n = len(deal.labels)
    size = min(n, max(deal.batch, n // REPEATS // deal.batch * deal.batch))
    once = _in_turn(deal)
    return [
        np.take(part, range(r * size, (r + 1) * size), axis=0, mode="wrap")
        for r in range(REPEATS)
        for part in once
    ]


@dataclass(frozen=True, slots=True)
class Protocol:
    """Function that makes the segments of a stream, and its description for people."""

    deal: Callable[[Deal], Segments]
    told: str


PROTOCOLS: dict[str, Protocol] = {
    "reset": Protocol(_in_turn, "a fresh adapter for each corruption"),
    "continual": Protocol(_in_turn, "one adapter through all corruptions, one after the other"),
    "correlated": Protocol(_correlated, f"continual, classes in runs (Dirichlet {DELTA}, {SLOTS} stretches)"),
    "mixed": Protocol(_mixed, "all corruptions shuffled into one stream"),
    "single": Protocol(_single, f"continual, one image at a time, a {SINGLE_SHARE}th of the images"),
    "unknown": Protocol(_in_turn, f"continual, {UNKNOWN_SHARE:.0%} images of unknown classes (not counted)"),
    "long": Protocol(_long, f"the corruptions {REPEATS} times over, a {REPEATS}th of the images each time"),
    "label_shift": Protocol(_label_shift, f"continual, the commonest class {TAIL:.0f} times the rarest"),
    "clean": Protocol(_in_turn, "no corruption: what adapting costs where nothing has changed"),
}
