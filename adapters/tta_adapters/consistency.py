"""What it takes to compare two answers: the losses, and second passes that leave the statistics alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor

from tta_agent.norms import TargetNorm


def cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    """H(target, p) = -sum_c softmax(target)_c ln p_c, [B, C] each -> [B], >= 0, in nats."""
    return -(target.softmax(1) * logits.log_softmax(1)).sum(1)


def symmetric_cross_entropy(one: Tensor, other: Tensor) -> Tensor:
    """SCE(a, b) = -0.5 sum_c b_c ln a_c - 0.5 sum_c a_c ln b_c, from logits [B, C] -> [B], >= 0, in nats.

    Döbler, Marsden, Yang, CVPR 2023, arXiv 2211.13081, equation 2; after Wang et al., ICCV 2019, arXiv 1908.06112.
    """
    return 0.5 * cross_entropy(other, one) + 0.5 * cross_entropy(one, other)


@contextmanager
def unseen(norms: Iterable[TargetNorm]) -> Iterator[None]:
    """Passes in here leave the batch that the layers remember as it was: it is the one to be absorbed."""
    layers = list(norms)
    remembered = [layer._batch for layer in layers]
    try:
        yield
    finally:
        for layer, batch in zip(layers, remembered, strict=True):
            layer._batch = batch
