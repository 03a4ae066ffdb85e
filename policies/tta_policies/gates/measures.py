"""Numbers that several gates share. Pure numpy; N records, C classes, A samples of the anchor set."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.stats import beta, chi2

from tta_agent.core import task
from tta_agent.core.types import Array

QUANTILE = 0.995  # of a statistic when nothing differs: the point above which a gate speaks
BINS = 15


@lru_cache(maxsize=64)
def chance_divergence(classes: int) -> float:
    """99.5 % quantile of 4 N JS of two histograms of N independent draws each: G of two samples, chi-squared."""
    return float(chi2.ppf(QUANTILE, classes - 1))


def upper_share(hits: int, n: int, level: float = 0.975) -> float:
    """Exact upper confidence bound of a share (Clopper and Pearson, Biometrika 1934); 1 without records."""
    return 1.0 if hits >= n else float(beta.ppf(level, hits + 1, n - hits))


def calibration_error(logits: Array, labels: Array, bins: int = BINS) -> float:
    """ECE: mean distance of confidence and accuracy over bins of equal count (Nguyen and O'Connor, EMNLP 2015)."""
    sure, right = task.certainty(logits), task.correct(logits, labels)
    parts = np.array_split(np.argsort(sure, kind="stable"), bins)
    gaps = [len(rows) * abs(sure[rows].mean() - right[rows].mean()) for rows in parts if len(rows)]
    return float(sum(gaps) / len(labels))
