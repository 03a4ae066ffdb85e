"""Scores of single samples by their logits, with range and direction. Pure functions.

Letters: B samples, C classes. Of L labels the logits are [B, 2, L], and a score is the mean over labels
(`tta_agent.core.task`).
"""

import math

import torch
from scipy.special import betainc, betaln, hyp2f1
from torch import Tensor

from tta_agent.core.task import per_record


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy of the softmax, [B, C] -> [B], in nats, 0 .. ln C. High = unsure."""
    log_p = logits.log_softmax(dim=1)
    return per_record(-(log_p.exp() * log_p).sum(dim=1))  # type: ignore[no-any-return]


def confidence(logits: Tensor) -> Tensor:
    """Largest probability, [B, C] -> [B], 1/C .. 1. High = sure."""
    return per_record(logits.softmax(dim=1).amax(dim=1))  # type: ignore[no-any-return]


def margin(logits: Tensor) -> Tensor:
    """Largest minus second largest probability, [B, C] -> [B], 0 .. 1. High = sure."""
    top = logits.softmax(dim=1).topk(2, dim=1).values
    return per_record(top[:, 0] - top[:, 1])  # type: ignore[no-any-return]


def max_entropy(classes: int) -> float:
    """Largest entropy, ln C: thresholds on entropy are shares of it, so that they hold for any number of classes."""
    return math.log(classes)


def all_finite(*values: Tensor) -> bool:
    """Whether all values of all tensors are finite; a device is waited for once."""
    floats = [value.detach() for value in values if value.is_floating_point()]
    sums: dict[torch.device, list[Tensor]] = {}
    for value in floats:
        sums.setdefault(value.device, []).append(value.sum().double())
    if all(math.isfinite(float(torch.stack(some).sum())) for some in sums.values()):
        return True  # the quick way; a sum of finite values may overflow
    return all(bool(torch.isfinite(value).all()) for value in floats)


SMALLEST = 1e-280  # of a probability whose logarithm is still exact


def log_e(wins: int, losses: int) -> float:
    """Logarithm of the e-value E(w, l) of the sequential McNemar test; high = the one that wins is better.

    Likelihood ratio against P(win) = 1/2, P(win) uniform on (1/2, 1); `gates/certificate.py` has the formula.
    """
    a, b = wins + 1, losses + 1
    tail = betainc(b, a, 0.5)  # P(Beta(a, b) > 1/2) = P(Beta(b, a) < 1/2)
    if (
        tail < SMALLEST
    ):  # too small for a float: by the series of the incomplete beta function, in which it cancels
        return float(math.log(hyp2f1(1, a + b, b + 1, 0.5)) - math.log(2 * b))
    return float((wins + losses + 1) * math.log(2) + betaln(a, b) + math.log(tail))
