"""AETTA, a label-free estimate of accuracy for comparison: it needs the module, not only its outputs.

Lee, Chottananurak, Gong, Lee, "AETTA: Label-Free Accuracy Estimation for Test-Time Adaptation", CVPR 2024,
arXiv:2404.01351. With N passes under dropout before the last layer,

    PD = share of passes that answer otherwise than without dropout,  err = PD / (H(mean p) / ln C)^3

clipped to 0 .. 1 - 1/C. Deviation from the paper: no moving average, because a window is judged at once.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tta_agent.core.task import decide
from tta_agent.core.types import Array

PASSES, POWER = 10, 3


@torch.no_grad()
def passes(module: nn.Module, x: Array, rate: float, at_once: int = 50) -> Array:
    """Mean probabilities under dropout and share of passes that disagree, [N, C + 1].

    Args:
        module: its last nn.Linear gets the dropped features; without one all passes agree.
        rate: share of the features that are dropped.
    """
    layers = [m for m in module.modules() if isinstance(m, nn.Linear)]
    caught: list[Tensor] = []
    hook = layers[-1].register_forward_pre_hook(lambda _, given: caught.append(given[0])) if layers else None
    random = torch.Generator().manual_seed(0)
    parts = []
    device = next(module.parameters()).device
    for start in range(0, len(x), at_once):
        plain = module(torch.from_numpy(x[start : start + at_once]).to(device))
        parts.append(_one(layers[-1] if layers else None, plain, caught, rate, random))
        caught.clear()
    if hook is not None:
        hook.remove()
    return np.asarray(torch.cat(parts).numpy())


def _one(
    head: nn.Linear | None, plain: Tensor, caught: list[Tensor], rate: float, random: torch.Generator
) -> Tensor:
    given, p, apart = caught[:1], torch.zeros_like(plain).cpu(), torch.zeros(len(plain))
    for _ in range(PASSES):
        z = plain
        if head is not None and given:
            kept = torch.rand(given[0].shape, generator=random).to(plain.device) >= rate
            z = nn.functional.linear(given[0] * kept / (1 - rate), head.weight, head.bias)
        p += z.softmax(1).cpu() / PASSES
        apart += (decide(z) != decide(plain)).cpu() / PASSES
    return torch.cat([p, apart[:, None]], dim=1)


def accuracy(found: Array) -> float:
    """Estimated accuracy, 0 .. 1, of a window of rows [N, C + 1] of `passes`."""
    p, apart = found[:, :-1].mean(0), float(found[:, -1].mean())
    classes = len(p)
    spread = float(-(p * np.log(np.clip(p, 1e-12, None))).sum() / np.log(classes))
    return 1 - float(np.clip(apart / max(spread, 1e-6) ** POWER, 0, 1 - 1 / classes))
