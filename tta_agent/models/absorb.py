"""Averages of all layers moved together by the batch that they have forwarded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from tta_agent.models.stats_config import StatsConfig
from tta_agent.models.target_stats import NAMES, Averages, BatchStats, apiece, follow, together
from tta_agent.scoring.sample_scores import all_finite


class Averaging(Protocol):
    """A layer that remembers the statistics of a batch, and averages them."""

    estimate: StatsConfig
    source_mean: Tensor
    source_var: Tensor
    _batch: BatchStats | None
    _fresh: bool | None

    @property
    def state(self) -> Averages:
        """The averages, without a copy."""


@torch.no_grad()
def absorb(layers: Iterable[Averaging]) -> bool:
    """Move the averages of all layers by the batch last forwarded; of none where a number would not be finite.

    A layer behind one whose statistics are infinite sees a constant: its own are finite and mean nothing.
    A device is waited for once.

    Returns:
        Whether all numbers were finite.
    """
    moved = [(group, followed(group)) for group in _alike(layers)]
    finite = all_finite(*(getattr(both, name) for _, both in moved for name in NAMES))
    for group, both in moved:
        if finite:
            _put(group, both)
        for layer in group:
            layer._batch = None
    return finite


def _alike(layers: Iterable[Averaging]) -> list[list[Averaging]]:
    """Layers with a batch, those together whose averages move by the same rule."""
    groups: defaultdict[tuple[Any, ...], list[Averaging]] = defaultdict(list)
    for layer in layers:
        if (batch := layer._batch) is not None:
            mean = layer.source_mean
            key = (layer.estimate, batch.samples, batch.mixed is None, mean.device, mean.dtype)
            groups[key].append(layer)
    return list(groups.values())


def followed(layers: Sequence[Averaging]) -> Averages:
    """Averages of all layers, of one configuration, after the batch that each has forwarded."""
    source = torch.cat([x.source_mean for x in layers]), torch.cat([x.source_var for x in layers])
    return follow(
        together([x.state for x in layers]),
        [x._batch for x in layers if x._batch],
        source,
        layers[0].estimate,
    )


def _put(layers: Sequence[Averaging], both: Averages) -> None:
    """Write the averages into the layers' buffers."""
    parts = apiece(both, [len(layer.source_mean) for layer in layers])
    into = [layer.state for layer in layers]
    for name in NAMES:
        torch._foreach_copy_([getattr(x, name) for x in into], [getattr(part, name) for part in parts])
    for layer in layers:
        layer._fresh = False


@contextmanager
def unseen(norms: Iterable[Averaging]) -> Iterator[None]:
    """Context in which forward passes leave the batch that the layers remember as it was."""
    layers = list(norms)
    remembered = [layer._batch for layer in layers]
    try:
        yield
    finally:
        for layer, batch in zip(layers, remembered, strict=True):
            layer._batch = batch
