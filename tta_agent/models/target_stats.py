"""Estimate of a target's BatchNorm statistics from its batches, for all layers at once.

Channels of all layers lie behind one another in vectors [N], so that a step costs a few operations however many
layers there are, and no value leaves the device. Quantities of a layer are [L], or [2, L]: of means, of variances.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from tta_agent.models.stats_config import StatsConfig

TINY = 1e-5  # keeps ratios of variances finite where a channel is dead
QUIET = 0.2  # share of the newest batch in the estimate of how far batches lie apart
SMALL = 1e-12  # keeps ratios of distances finite where two sets of statistics are equal


class BatchStats(NamedTuple):
    """Statistics of the batch that a layer has forwarded.

    Attributes:
        mean, var: by channel, the variance unbiased; the kernel writes them.
        samples: in the batch.
        noise: `sample_noise` of the first batch, else None.
        mixed: share of the source in the statistics that the method normalises by; None where it mixes none in.
    """

    mean: Tensor
    var: Tensor
    samples: int
    noise: Tensor | None = None
    mixed: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Averages:
    """Averaged statistics: of one layer, [channels] and scalars, or of all.

    Attributes:
        mean, var: averages over the target's batches, the source's until the first.
        before: mean and variance of the newest batch.
        count: number of batches of mean size that the averages are worth.
        size: mean number of samples of a batch.
        last: samples of the newest batch.
        apart: noise of one sample, by means and by variances.
        shrunk: share of the source that is served, by means and by variances.
        kept: mean share of the source in the method's own mixture.
        batches: absorbed.
    """

    mean: Tensor
    var: Tensor
    before: Tensor
    count: Tensor
    size: Tensor
    last: Tensor
    apart: Tensor
    shrunk: Tensor
    kept: Tensor
    batches: Tensor


NAMES = tuple(field.name for field in fields(Averages))


def start(mean: Tensor, var: Tensor) -> Averages:
    """Averages of one layer before the first batch, by the source's statistics [channels]."""
    none = {name: mean.new_zeros(()) for name in ("count", "size", "last", "kept")}
    pairs = {name: mean.new_zeros(2) for name in ("apart", "shrunk")}
    batches = torch.zeros((), dtype=torch.int64, device=mean.device)
    return Averages(mean.clone(), var.clone(), mean.new_zeros(2, len(mean)), batches=batches, **none, **pairs)


def together(layers: Sequence[Averages]) -> Averages:
    """One of all: channels behind one another, layers in the last axis."""
    axes = {name: [getattr(one, name) for one in layers] for name in NAMES}
    channels = {name: torch.cat(axes[name], dim=-1) for name in ("mean", "var", "before")}
    of_layers = {name: torch.stack(axes[name], dim=-1) for name in NAMES if name not in channels}
    return Averages(**channels, **of_layers)


def apiece(both: Averages, channels: Sequence[int]) -> list[Averages]:
    """Views by layer, of so many channels each."""
    parts = {name: getattr(both, name).split(list(channels), dim=-1) for name in ("mean", "var", "before")}
    parts |= {name: getattr(both, name).unbind(-1) for name in NAMES if name not in parts}
    return [Averages(*values) for values in zip(*(parts[name] for name in NAMES), strict=True)]


@functools.lru_cache(maxsize=64)
def _layout(channels: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Channels of each layer [L], and the layer of each channel [N]."""
    lengths = torch.tensor(channels)
    return lengths.to(device), torch.arange(len(channels)).repeat_interleave(lengths).to(device)


class Layers:
    """Layers of so many channels each, in one vector."""

    def __init__(self, channels: Sequence[int], device: torch.device) -> None:
        self._lengths, self._layer = _layout(tuple(channels), device)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the channels of each layer, [N] -> [L]; always in the same order."""
        return torch.segment_reduce(values, "mean", lengths=self._lengths, unsafe=True)

    def spread(self, values: Tensor) -> Tensor:
        """Value of its layer for each channel, [L] -> [N]."""
        return values[self._layer]

    def distance(self, mean: Tensor, var: Tensor, mean_a: Tensor, var_a: Tensor) -> Tensor:
        """How far two sets of statistics lie apart, by means and by variances [2, L], >= 0."""
        means = (mean - mean_a).square() / (var_a + TINY)
        variances = ((var + TINY) / (var_a + TINY)).log().square() / 2
        return torch.stack((self.mean(means), self.mean(variances)))


def follow(
    old: Averages, batch: Sequence[BatchStats], source: tuple[Tensor, Tensor], estimate: StatsConfig
) -> Averages:
    """Averages after a batch, by the formulas of `AdaptiveBatchNorm`.

    Args:
        old: of all layers.
        batch: statistics of each layer, of one number of samples.
        source: mean and variance of all layers.
    """
    layers = Layers([len(one.mean) for one in batch], old.mean.device)
    mean, var = torch.cat([one.mean for one in batch]), torch.cat([one.var for one in batch])
    n, first = batch[0].samples, old.batches == 0
    newest = layers.distance(mean, var, *old.before) / (1 / n + 1 / old.last.clamp_min(1))
    known = torch.where(old.batches == 1, torch.maximum(old.apart, newest), old.apart)
    size = torch.where(old.size > 0, old.size, n)
    worth = old.count * size
    expected = known.sum(0) * (1 / n + 1 / worth.clamp_min(1))
    ratio = layers.distance(mean, var, old.mean, old.var).sum(0) / expected.clamp_min(SMALL)
    change = torch.where(ratio > estimate.change, 1 - 1 / ratio, 0.0)
    share = torch.maximum(n / torch.minimum(worth + n, size.clamp_min(n) / estimate.momentum), change)
    share = torch.where(first, 1.0, share)
    size = size + share * (n - size)

    each = layers.spread(share)
    between = (mean - old.mean).square() * (each * (1 - each))
    mean_a, var_a = old.mean.lerp(mean, each), old.var.lerp(var, each) + between
    far = layers.distance(*source, mean_a, var_a)
    quiet = known + QUIET * (torch.minimum(newest, 4 * known) - known)
    apart = torch.where(first, _first(batch, far), quiet)
    shrunk, kept = _source(batch, apart * (share / n) / far.clamp_min(SMALL), old.kept, share)
    last, before = torch.full_like(size, n), torch.stack((mean, var))
    count = n / (share * size)
    return Averages(mean_a, var_a, before, count, size, last, apart, shrunk, kept, old.batches + 1)


def _first(batch: Sequence[BatchStats], far: Tensor) -> Tensor:
    """Noise of one sample by the first batch, [2, L]; of a lone sample: half of how far it lies from the source."""
    noise = [far[:, i] / 2 if one.noise is None else one.noise for i, one in enumerate(batch)]
    return torch.stack(noise, dim=-1).to(far.dtype)


def _source(
    batch: Sequence[BatchStats], shrunk: Tensor, kept: Tensor, share: Tensor
) -> tuple[Tensor, Tensor]:
    """Shares of the source: by its distance, [2, L], or the method's own [L]."""
    mixed = [one.mixed for one in batch if one.mixed is not None]
    if not mixed:
        return shrunk.clamp(max=1), kept
    return torch.zeros_like(shrunk), kept + share * (torch.stack(mixed) - kept)


@torch.no_grad()
def sample_noise(x: Tensor, mean: Tensor, var: Tensor) -> Tensor | None:
    """How far the statistics of samples lie apart, by means and by variances [2]; None for a lone sample.

    Args:
        x: feature map [B, channels, ...].
        mean, var: of the batch, by channel.
    """
    if len(x) < 2:
        return None
    values = x.to(torch.promote_types(x.dtype, torch.float32)).flatten(2) if x.dim() > 2 else x[..., None]
    var_i, mean_i = torch.var_mean(values, dim=2, correction=0)
    unit = var + TINY
    variances = (var_i + (mean_i - mean).square()) / unit
    return torch.stack(((mean_i / unit.sqrt()).var(0).mean(), variances.var(0).mean() / 2))
