"""The served statistics of one layer in numpy, as the formulas stand: what the vectors of all layers must give."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

TINY = 1e-5


def distance(mean, var, mean_a, var_a):
    """By means and by variances, averaged over the channels."""
    means = np.mean((mean - mean_a) ** 2 / (var_a + TINY))
    return np.array([means, np.mean(np.log((var + TINY) / (var_a + TINY)) ** 2) / 2])


def moments(x):
    """Mean and unbiased variance [channels] of a batch [B, channels, ...]."""
    maps = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
    return maps.mean(1), maps.var(1, ddof=1)


def noise(x):
    """Of one sample, by means and by variances."""
    maps = x.reshape(*x.shape[:2], -1)
    mean, var = moments(x)
    each, spread = maps.mean(2), ((maps - mean[:, None]) ** 2).mean(2)
    return np.array(
        [
            np.mean(each.var(0, ddof=1) / (var + TINY)),
            np.mean(spread.var(0, ddof=1) / (var + TINY) ** 2) / 2,
        ]
    )


@dataclass
class Reference:
    """Averages that start at the source [channels]."""

    source_mean: np.ndarray
    source_var: np.ndarray
    momentum: float = 0.1
    change: float = 3.0
    n: float = 0.0
    size: float = 0.0
    last: int = 0
    rho: np.ndarray = field(default_factory=lambda: np.zeros(2))
    w: np.ndarray = field(default_factory=lambda: np.zeros(2))
    shares: list = field(default_factory=list)
    mean: np.ndarray | None = None
    var: np.ndarray | None = None
    before: tuple | None = None

    def absorb(self, x):
        """Move by a batch [B, channels, ...]."""
        x = np.asarray(x, np.float64)
        b, (mean, var) = len(x), moments(x)
        if self.before is None:
            self.mean, self.var, a, self.size = mean, var, 1.0, float(b)
        else:
            a = self._share(mean, var, b)
            self.var = self.var + a * (var - self.var) + a * (1 - a) * (mean - self.mean) ** 2
            self.mean = self.mean + a * (mean - self.mean)
            self.size += a * (b - self.size)
        far = distance(self.source_mean, self.source_var, self.mean, self.var)
        if self.before is None:
            self.rho = noise(x) if b > 1 else far / 2
        self.n, self.last, self.before = b / a, b, (mean, var)
        self.w = np.minimum(1, self.rho / self.n / far)
        self.shares.append(a)

    def _share(self, mean, var, b):
        newest = distance(mean, var, *self.before) / (1 / b + 1 / self.last)
        known = np.maximum(self.rho, newest) if len(self.shares) == 1 else self.rho
        q = distance(mean, var, self.mean, self.var).sum() / (known.sum() * (1 / b + 1 / self.n))
        self.rho = known + 0.2 * (np.minimum(newest, 4 * known) - known)
        jump = 1 - 1 / q if q > self.change and not math.isinf(self.change) else 0.0
        return max(b / min(self.n + b, max(self.size, b) / self.momentum), jump)

    @property
    def served(self):
        """Mean and variance [channels]."""
        var = (self.var + TINY) ** (1 - self.w[1]) * (self.source_var + TINY) ** self.w[1] - TINY
        return self.mean + self.w[0] * (self.source_mean - self.mean), var
