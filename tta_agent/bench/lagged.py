"""Predictions at a lag: frozen snapshots, each of which answers the batches until the next one is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from tta_agent.core.task import decide
from tta_agent.core.types import Array

Classify = Callable[[nn.Module, Array], Array]
NOBODY = -1  # no snapshot had been taken yet
WINDOW, CLOSE = 200, 0.01  # of `change_cost`: records averaged over, and what counts as caught up


class Lagged:
    """Snapshots at several lags: one is taken after every k rounds and answers the next k batches.

    Args:
        lags: the values of k.
        answers: function of a module and a batch [B, ...] to classes [B].
    """

    def __init__(self, lags: Sequence[int], answers: Classify) -> None:
        self._lags, self._answers = lags, answers
        self._serving: dict[int, nn.Module] = {}
        self._given: dict[int, list[Array]] = {lag: [] for lag in lags}
        self.rounds = 0

    def serve(self, x: Array) -> None:
        """Answer a batch by the snapshots of now: before the round that learns from it."""
        distinct = {id(module): module for module in self._serving.values()}  # lags may share a snapshot
        given = {key: self._answers(module, x) for key, module in distinct.items()}
        nobody = np.full(len(x), NOBODY)
        for lag in self._lags:
            self._given[lag].append(given.get(id(self._serving.get(lag)), nobody))

    def learnt(self, servable: Callable[[], nn.Module]) -> None:
        """Count a round; take a new snapshot for the lags that are due."""
        self.rounds += 1
        due = [lag for lag in self._lags if self.rounds % lag == 0]
        if due:
            snapshot = servable()
            self._serving.update(dict.fromkeys(due, snapshot))

    def answers(self) -> Mapping[int, Array]:
        """Classes [N] of all records so far, by lag; NOBODY before the first snapshot."""
        return {
            lag: np.concatenate(parts) if parts else np.empty(0, int) for lag, parts in self._given.items()
        }


@torch.no_grad()
def classes(module: nn.Module, x: Array, device: torch.device) -> Array:
    """Classes [B] that a module predicts, in the mode that it is in."""
    return np.asarray(decide(module(torch.from_numpy(x).to(device))).cpu().numpy())


def change_cost(gap: Array, starts: Sequence[int]) -> float | None:
    """Number of records after a change of domain until the served answers have caught up with the online ones.

    The gap, online minus served correctness of each record, is averaged over the changes at the same distance
    from the change, then over `WINDOW` records. The cost is the start of the first window in which it is at most
    `CLOSE`; the whole stretch, where that never happens. 0: served is as good from the first record on.

    Args:
        gap: [N] in -1 .. 1, in order of arrival.
        starts: where a new domain starts, the first one (no change) left out; None without any.
    """
    length = min((end - start for start, end in pairwise([*starts, len(gap)])), default=0)
    if length <= 0:
        return None
    mean = np.mean([gap[start : start + length] for start in starts], axis=0)
    window = min(WINDOW, length)
    moving = np.convolve(mean, np.full(window, 1 / window), mode="valid")
    caught_up = np.flatnonzero(moving <= CLOSE + 1e-12)
    return float(caught_up[0]) if len(caught_up) else float(length)
