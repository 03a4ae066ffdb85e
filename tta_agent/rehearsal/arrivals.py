"""Orders of arrival: index arrays of the records of a scenario, and their mix of classes.

References:
    Gong et al., "NOTE: Robust Continual Test-time Adaptation Against Temporal Correlation", NeurIPS 2022,
    arXiv:2208.05117 (class runs by Dirichlet shares).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tta_agent.core.types import Array

TAIL = 10.0  # label_shift: the commonest class over the rarest
UNKNOWN_SHARE = 0.3
SLOTS, DELTA = 10, 0.1  # correlated: stretches of time, and how unevenly a class spreads over them
EVEN = 3.0  # correlated: Dirichlet concentration of the classes within one window, which spans several runs


@dataclass(frozen=True, slots=True)
class Order:
    """Records in order of arrival, as indices; one from `len(labels)` on is an image of an unknown class.

    Attributes:
        learn: records that the copy learns from [L].
        window: held-out records after them [W].
        share: class mix [C] over which the gain is averaged.
    """

    learn: Array
    window: Array
    share: Array


def order(
    structure: str, learn: Array, held: Array, classes: int, window: int, random: np.random.Generator
) -> Order:
    """Draw an order of arrival.

    Args:
        structure: of `scenarios.STRUCTURES`.
        learn, held: classes of the images to learn from [L] and of the held-out ones [G].
        classes: of the model, C.
        window: held-out records of the evidence.
    """
    even = np.bincount(held, minlength=classes) / len(held)
    if structure == "correlated":
        uneven = random.dirichlet(np.full(classes, EVEN)) * (even > 0)
        rows = _weighted(held, uneven / uneven.sum(), window, random)
        return Order(
            _runs(learn, random),
            rows[np.argsort(random.permutation(classes)[held[rows]], kind="stable")],
            even,
        )
    if structure == "label_shift":
        share = TAIL ** (-random.permutation(classes) / max(classes - 1, 1)) * (even > 0)
        share = share / share.sum()
        return Order(
            _weighted(learn, share, len(learn), random), _weighted(held, share, window, random), share
        )
    if structure == "unknown":
        return Order(_strangers(len(learn), len(learn), random), _strangers(len(held), window, random), even)
    return Order(random.permutation(len(learn)), _some(len(held), window, random), even)


def gain(serving: Array, candidate: Array, labels: Array, share: Array) -> float:
    """Gain in accuracy of the candidate, classes [G] each, for the class mix `share` [C]; absent ones left out."""
    step = (candidate == labels).astype(float) - (serving == labels)
    count = np.bincount(labels, minlength=len(share))
    there = count > 0
    mean = np.bincount(labels, step, minlength=len(share))[there] / count[there]
    return float((mean * share[there]).sum() / share[there].sum())


def _some(n: int, count: int, random: np.random.Generator) -> Array:
    """Draw `count` of n, each at most once where there are enough."""
    return np.concatenate([random.permutation(n) for _ in range(-(-count // n))])[:count]


def _weighted(labels: Array, share: Array, count: int, random: np.random.Generator) -> Array:
    mine = share[labels] / np.bincount(labels, minlength=len(share))[labels]
    again = count > np.count_nonzero(mine) // 2  # too few to do without repeats
    return np.asarray(random.choice(len(labels), count, replace=bool(again), p=mine / mine.sum()))


def _strangers(n: int, count: int, random: np.random.Generator) -> Array:
    rows = _some(n, count, random)
    strange = random.permutation(count)[: round(UNKNOWN_SHARE * count)]
    rows[strange] = n + np.arange(len(strange))
    return rows


def _runs(labels: Array, random: np.random.Generator) -> Array:
    slots: list[list[Array]] = [[] for _ in range(SLOTS)]
    for label in random.permutation(np.unique(labels)):
        mine = random.permutation(np.flatnonzero(labels == label))
        cuts = (np.cumsum(random.dirichlet([DELTA] * SLOTS))[:-1] * len(mine)).round().astype(int)
        for slot, part in zip(slots, np.split(mine, cuts), strict=True):
            slot.append(part)
    return np.concatenate([slot[i] for slot in slots for i in random.permutation(len(slot))])
