"""The optimisers of the published configurations, none with weight decay."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

Optimizer = Literal["adam", "sgd"]
MOMENTUM = 0.9  # of SGD


def make_optimizer(
    kind: Optimizer, parameters: list[nn.Parameter], lr: float, *, nesterov: bool = False
) -> torch.optim.Optimizer:
    """Adam with betas 0.9 and 0.999, or SGD with momentum 0.9, plain or Nesterov's.

    Raises:
        ValueError: no such optimiser, or Nesterov's momentum without SGD.
    """
    if kind not in ("adam", "sgd"):
        raise ValueError(f"optimizer {kind!r} is neither 'adam' nor 'sgd'")
    if kind == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=MOMENTUM, nesterov=nesterov)
    if nesterov:
        raise ValueError("nesterov is a form of SGD's momentum; expected it with optimizer 'sgd'")
    return torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.999))
