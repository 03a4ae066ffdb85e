"""A little back towards the source after every step.

Marsden, Döbler, Yang (ROID), WACV 2024, arXiv 2306.00650: theta <- m theta + (1 - m) theta_source on what is adapted,
m = 0.99.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tta_agent.core.types import Moment


class WeightEnsembling:
    """Pulls every adapted parameter towards the source.

    Args:
        keep: share m of the adapted weights, in [0, 1]; 0 is the source.
    """

    def __init__(self, keep: float = 0.99) -> None:
        if not 0 <= keep <= 1:
            raise ValueError(f"keep {keep} is not a share in [0, 1]")
        self.keep = keep

    @torch.no_grad()
    def after(self, moment: Moment) -> bool:
        """Never asks for a reset; leaves the weights alone where no step was taken."""
        for now, source in moment.moved.values() if moment.report.used else ():
            now.lerp_(source, 1 - self.keep)
        return False

    def reset(self) -> None:
        """Remembers nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to load."""
