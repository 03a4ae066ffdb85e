"""Single weights go back to the source by chance, after every step.

Wang, Fink, Van Gool, Dai (CoTTA), CVPR 2022, arXiv 2203.13591: theta <- M theta_source + (1 - M) theta with a fresh
M ~ Bernoulli(p) for each element; p = 0.01 for CIFAR-like data, 0.001 for ImageNet-like.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tta_agent.core.types import Moment


class StochasticRestore:
    """Restores each element of every adapted parameter with probability `share`.

    Args:
        share: probability p, in [0, 1]; 1 is a reset of the weights.
        seed: of the masks.
    """

    def __init__(self, share: float = 0.01, seed: int = 0) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share {share} is not a probability in [0, 1]")
        self.share, self.seed = share, seed
        self._generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def after(self, moment: Moment) -> bool:
        """Never asks for a reset; leaves the weights alone where no step was taken."""
        for now, source in moment.moved.values() if moment.report.used else ():
            mask = torch.rand(now.shape, generator=self._generator) < self.share
            now.copy_(torch.where(mask.to(now.device), source, now))
        return False

    def reset(self) -> None:
        """The masks begin anew."""
        self._generator.manual_seed(self.seed)

    def state_dict(self) -> dict[str, Any]:
        """Random state."""
        return {"random": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._generator.set_state(state["random"].cpu())
