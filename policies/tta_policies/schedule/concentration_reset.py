"""Back to the source when the answers gather on a few classes.

The signal is that of "When and Where to Reset Matters for Long-Term Test-Time Adaptation" (ASR), ICLR 2026,
arXiv 2603.03796: the concentration of the mean answer of a batch,

    C_t = sum_c p_c ln p_c,   p = mean_i softmax(z_i),   between -ln C (all classes alike) and 0 (one class)

Reset when its quick average stands more than `margin` ln C above its slow one. Deviations: the paper compares a
batch with one average, takes the softmax of the mean logits, and resets some layers only, more of them the longer
it has waited; here two averages keep one odd batch from resetting, and everything is reset.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tta_agent.core.types import Moment


class ConcentrationReset:
    """Asks for a reset on collapse.

    Args:
        margin: rise of the concentration that triggers, as a share of ln C, in (0, 1].
        quick, slow: share of the newest batch in the two averages, quick > slow.
        wait: rounds after a reset in which only the averages are learnt.
    """

    def __init__(self, margin: float = 0.1, quick: float = 0.2, slow: float = 0.01, wait: int = 10) -> None:
        if not 0 < margin <= 1:
            raise ValueError(f"margin {margin} is not a share of ln C in (0, 1]")
        if not 0 < slow < quick <= 1:
            raise ValueError(f"expected 0 < slow < quick <= 1, got slow {slow} and quick {quick}")
        self.margin, self.quick, self.slow, self.wait = margin, quick, slow, wait
        self._rounds, self._fast, self._base = 0, 0.0, 0.0

    def after(self, moment: Moment) -> bool:
        """True when the quick average has risen above the slow one by the margin."""
        level = concentration(moment.logits)
        self._rounds += 1
        share = max(1 / self._rounds, self.slow)
        self._base += max(share, self.slow) * (level - self._base)
        self._fast += max(1 / self._rounds, self.quick) * (level - self._fast)
        risen = self._fast - self._base > self.margin * math.log(moment.logits.shape[1])
        return risen and self._rounds > self.wait

    def reset(self) -> None:
        """Forget the averages."""
        self._rounds, self._fast, self._base = 0, 0.0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """Rounds and averages."""
        return {"rounds": self._rounds, "fast": self._fast, "base": self._base}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._rounds, self._fast, self._base = state["rounds"], state["fast"], state["base"]


def concentration(logits: Tensor) -> float:
    """Negative entropy of the mean answer, [B, C] -> -ln C .. 0, in nats. High = few classes."""
    mean = logits.softmax(dim=1).mean(dim=0).clamp_min(1e-12)
    return float((mean * mean.log()).sum(dim=0).mean())
