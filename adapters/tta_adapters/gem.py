"""Generalised entropy minimisation: the losses of DomainAdaptor.

Zhang, Qi, Shi, Gao, "DomainAdaptor: A Novel Approach to Test-time Adaptation", ICCV 2023, arXiv 2308.10297.

With logits z [N, C], a temperature T = 2 std_c(z) of each sample and q = softmax(z / T), a target t is compared by

    h = -sum_c t_c ln q_c,   loss = mean_i T_i^2 h_i

    gem-t    t = q                        (entropy at the temperature T)
    gem-skd  t = softmax(z)               (the sample teaches itself)
    gem-aug  t = softmax(mean_v z_v)      (its augmented views teach it)

T and, but for gem-t, t carry no gradient. The paper centres z by its mean over the classes; softmax and deviation
do not notice. The authors' code multiplies a column by a row, so that its loss is the product of the means,
mean_i T_i^2 mean_i h_i; that is "literal".

Each step that makes the logits larger makes T, and so the next step, larger still: repeated on the same weights, the
loss grows without bound within a hundred small batches. One step from the source, as in the paper, does not notice.
For more, `relative` divides by mean_i T_i^2: the proportions between samples stay, that feedback goes.
"""

from __future__ import annotations

from torch import Tensor

from tta_agent.core.types import Selection

COLDEST = 1e-6  # where all logits are equal


def temperatures(logits: Tensor) -> Tensor:
    """Twice the deviation over the classes (C - 1 in the denominator), [B, C] -> [B], > 0, without gradient.

    Of labels, [B, 2, L] -> [B, L].
    """
    return 2 * logits.detach().std(dim=1).clamp_min(COLDEST)


def cross_entropy_at(logits: Tensor, temperature: Tensor, target: Tensor | None) -> Tensor:
    """h of the formulas, [B], in nats, >= 0; a target of None is q itself, with gradient."""
    log_q = (logits / temperature[:, None]).log_softmax(dim=1)
    return -((log_q.exp() if target is None else target.detach()) * log_q).sum(dim=1)


def gem(
    logits: Tensor,
    target: Tensor | None,
    selection: Selection,
    *,
    literal: bool = False,
    relative: bool = False,
) -> Tensor:
    """The loss over the selected samples, each h_k times its weight w_k.

    Args:
        logits: [B, C], with graph.
        target: probabilities [B, C], or None for gem-t.
        selection: K of the B samples.
        literal: the product of the means instead of the mean of the products.
        relative: in units of the mean of T^2: 0 .. ln C for gem-t.
    """
    chosen = logits[selection.index]
    hot = temperatures(chosen)
    h = cross_entropy_at(chosen, hot, None if target is None else target[selection.index])
    h = selection.weight.reshape(-1, *[1] * (h.dim() - 1)) * h
    square = hot**2 / (hot**2).mean() if relative else hot**2
    return h.mean() * square.mean() if literal else (h * square).mean()
