"""Numbers that several gates share. Pure numpy; N records, C classes, A samples of the anchor set."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import beta, chi2

from tta_agent.types import Array, softmax

QUANTILE = 0.995  # of a statistic when nothing differs: the point above which a gate speaks
BINS = 15


def histogram(logits: Array) -> Array:
    """Share of records per predicted class, [N, C] -> [C]."""
    counts = np.bincount(logits.argmax(1), minlength=logits.shape[1])
    return np.asarray(counts / counts.sum())


def entropy(p: Array) -> float:
    """In nats, of one distribution [C]."""
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def divergence(p: Array, q: Array) -> float:
    """Jensen-Shannon divergence of two distributions [C] in nats, 0 .. ln 2 (Lin, IEEE Trans. Inf. Theory 1991)."""
    return max(0.0, entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2)


@lru_cache(maxsize=64)
def chance_divergence(classes: int) -> float:
    """99.5 % quantile of 4 N JS of two histograms of N independent draws each: G of two samples, chi-squared."""
    return float(chi2.ppf(QUANTILE, classes - 1))


def concentration(logits: Array) -> float:
    """sum_c p_c ln p_c of the mean softmax, [N, C] -> -ln C (spread) .. 0 (one class)."""
    with np.errstate(invalid="ignore"):  # what is not finite counts as one class
        return -entropy(softmax(logits).mean(0))


def upper_share(hits: int, n: int, level: float = 0.975) -> float:
    """Exact upper confidence bound of a share (Clopper and Pearson, Biometrika 1934); 1 without records."""
    return 1.0 if hits >= n else float(beta.ppf(level, hits + 1, n - hits))


def temperature(logits: Array, labels: Array) -> float:
    """T > 0 that minimises the log-loss of logits / T (Guo et al., ICML 2017, arXiv 1706.04599)."""
    z = np.asarray(logits, np.float64)

    def loss(log_t: float) -> float:
        s = z / np.exp(log_t)
        top = s.max(1)
        return float((np.log(np.exp(s - top[:, None]).sum(1)) + top - s[np.arange(len(s)), labels]).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 5.0), method="bounded").x))


def calibration_error(logits: Array, labels: Array, bins: int = BINS) -> float:
    """ECE: mean distance of confidence and accuracy over bins of equal count (Nguyen and O'Connor, EMNLP 2015)."""
    p = softmax(logits)
    sure, right = p.max(1), p.argmax(1) == labels
    parts = np.array_split(np.argsort(sure, kind="stable"), bins)
    gaps = [len(rows) * abs(sure[rows].mean() - right[rows].mean()) for rows in parts if len(rows)]
    return float(sum(gaps) / len(labels))


def size(logits: Array) -> float:
    """Mean length of logits centred over the classes (softmax does not see their mean), [N, C] -> >= 0."""
    z = np.asarray(logits, np.float64)
    return float(np.linalg.norm(z - z.mean(1, keepdims=True), axis=1).mean())


def effective_rank(logits: Array) -> float:
    """exp of the entropy of the normalised singular values, 1 .. C (Roy and Vetterli, EUSIPCO 2007).

    Of logits centred over classes, then over records; 1 where nothing varies, 0 where one is not finite.
    """
    z = np.asarray(logits, np.float64)
    if not np.isfinite(z).all():
        return 0.0
    z = z - z.mean(1, keepdims=True)
    values = np.linalg.svd(z - z.mean(0), compute_uv=False)
    total = values.sum()
    return float(np.exp(entropy(values / total))) if total > 0 else 1.0
