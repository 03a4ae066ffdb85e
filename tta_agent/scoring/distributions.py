"""Distributions of a model's answers, in numpy: shared by gates and rehearsals.

Letters: N records, C classes, A samples of the anchor set.
"""

from __future__ import annotations

import numpy as np

from tta_agent.core import task
from tta_agent.core.types import Array, softmax

TEMPERATURES = np.geomspace(0.05, 20.0, 97)


def histogram(logits: Array) -> Array:
    """Share of each class among the predicted ones, [N, C] -> [C]; of each label among those that are named, [L]."""
    counts = task.tallies(logits)
    return np.asarray(counts / max(counts.sum(), 1))


def entropy(p: Array) -> Array:
    """Shannon entropy in nats of distributions along the last axis; values that are not finite count as 0."""
    p = np.where(p > 0, p, 1.0)
    return np.asarray(-(p * np.log(p)).sum(-1))


def uncertainty(logits: Array) -> Array:
    """Entropy of each record's probabilities, [N, C] -> [N], in nats; of labels the mean of theirs."""
    return np.asarray(task.per_record(entropy(np.moveaxis(softmax(logits), 1, -1))))


def concentration(logits: Array) -> float:
    """sum_c p_c ln p_c of the mean softmax, [N, C] -> -ln C (spread) .. 0 (one class); of labels their mean."""
    with np.errstate(invalid="ignore"):  # what is not finite counts as one class
        return -float(entropy(softmax(logits).mean(0).T).mean())


def energy(logits: Array) -> Array:
    """Log-sum-exp over classes, [N, C] -> [N] (Liu et al., NeurIPS 2020, arXiv:2010.03759, there with a minus)."""
    top = logits.max(1)
    return np.asarray(task.per_record(top + np.log(np.exp(logits - top[:, None]).sum(1))))


def divergence(p: Array, q: Array) -> float:
    """Jensen-Shannon divergence of two distributions [C] in nats, 0 .. ln 2 (Lin, IEEE Trans. Inf. Theory 1991)."""
    return max(0.0, float(entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2))


def temperature(logits: Array, labels: Array) -> float:
    """Temperature T > 0 of least log-loss of logits / T on the anchor [A, C], [A] ([A, 2, L], [A, L]).

    Guo et al., ICML 2017, arXiv:1706.04599.
    From a grid in units of the logits' own size, so that twice the logits have exactly twice the temperature.
    """
    z = np.asarray(logits, np.float64)
    size = float(z.std()) or 1.0
    z = (z - z.max(1, keepdims=True)) / size
    right = np.take_along_axis(z, labels[:, None], 1)[:, 0]
    losses = [np.log(np.exp(z / at).sum(1)).mean() - right.mean() / at for at in TEMPERATURES]
    return size * float(TEMPERATURES[int(np.argmin(losses))])


def singular_values(a: Array) -> Array:
    """Singular values of [N, C], by the small Gram matrix: N may be large."""
    return np.asarray(np.sqrt(np.clip(np.linalg.eigvalsh(a.T @ a), 0, None)))


def effective_rank(logits: Array) -> float:
    """Exponential of the entropy of the normalised singular values, 1 .. C (Roy and Vetterli, EUSIPCO 2007).

    Of logits centred over classes, then over records; 1 where nothing varies, 0 where one is not finite.
    """
    z = np.asarray(task.scores(logits), np.float64)
    if not np.isfinite(z).all():
        return 0.0
    z = z - z.mean(1, keepdims=True)
    values = singular_values(z - z.mean(0))
    total = values.sum()
    return float(np.exp(entropy(values / total))) if total > 0 else 1.0
