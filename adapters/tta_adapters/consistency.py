"""Losses between two answers to the same samples."""

from __future__ import annotations

from torch import Tensor

from tta_agent.core.task import per_record


def cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    """H(target, p) = -sum_c softmax(target)_c ln p_c, [B, C] each -> [B], >= 0, in nats."""
    return per_record(-(target.softmax(1) * logits.log_softmax(1)).sum(1))  # type: ignore[no-any-return]


def symmetric_cross_entropy(one: Tensor, other: Tensor) -> Tensor:
    """SCE(a, b) = -0.5 sum_c b_c ln a_c - 0.5 sum_c a_c ln b_c, from logits [B, C] -> [B], >= 0, in nats.

    Döbler, Marsden, Yang, CVPR 2023, arXiv 2211.13081, equation 2; after Wang et al., ICCV 2019, arXiv 1908.06112.
    """
    return 0.5 * cross_entropy(other, one) + 0.5 * cross_entropy(one, other)
