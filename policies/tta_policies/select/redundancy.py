"""Drop the samples that say again what the stream has just been saying.

Niu et al., "Efficient Test-Time Model Adaptation without Forgetting" (EATA), ICML 2022, arXiv 2204.02610, section
on non-redundant samples:

    keep where |cos(m, p)| < d;   m <- momentum m + (1 - momentum) mean of p over those that were kept

m is the average answer so far, [C]. It does not change where nobody is kept. The first time there is nothing to
compare with: everyone is kept and m is their mean. To be put after `entropy`, so that m is an average of sure
answers. A stream that stays on one class makes that class redundant and starves the learning: raise d there.

Of label sets p holds 2 p_l - 1 for each label, -1 .. 1: probabilities alone, all positive, have large cosines where
labels are few, and nobody would be kept.

Deviation: a reset clears m, which describes the answers of a copy that is gone (the authors' code keeps it).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_agent.core.types import Selection, View


class Redundancy:
    """Samples whose answers differ from the average answer.

    Args:
        d: bound on the cosine, in (0, 1]; a sample exactly at it is dropped. The paper's 0.4 for 10 classes, 0.1
            for 100, 0.05 for 1,000. With two classes every cosine with a balanced average is over 0.7.
        momentum: share of m that stays, in [0, 1).
    """

    def __init__(self, d: float = 0.4, momentum: float = 0.9) -> None:
        if not 0 < d <= 1:
            raise ValueError(f"d {d} is not a bound on a cosine in (0, 1]")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum {momentum} is not a share in [0, 1)")
        self.d, self.momentum = d, momentum
        self._mean: Tensor | None = None

    @torch.no_grad()
    def select(self, view: View) -> Selection:
        """Index of those that say something new, each with weight 1; the others are counted as `redundancy`."""
        p = view.logits.softmax(dim=1)
        p = 2 * p[:, 1] - 1 if p.dim() > 2 else p
        new = self._is_new(p)
        index = torch.nonzero(new).flatten()
        if len(index):
            self._remember(p[index].mean(dim=0))
        return Selection(index, torch.ones_like(p[index, 0]), {"redundancy": len(p) - len(index)})

    def _is_new(self, p: Tensor) -> Tensor:
        if self._mean is None:
            return p.isfinite().all(dim=1)  # NaN would stay in m for ever
        return F.cosine_similarity(self._mean.to(p.device)[None], p, dim=1).abs() < self.d

    def _remember(self, mean: Tensor) -> None:
        if self._mean is not None:
            mean = self.momentum * self._mean.to(mean.device) + (1 - self.momentum) * mean
        self._mean = mean

    def reset(self) -> None:
        """Forget the average answer."""
        self._mean = None

    def state_dict(self) -> dict[str, Any]:
        """The average answer."""
        return {"mean": None if self._mean is None else self._mean.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._mean = None if state["mean"] is None else state["mean"].clone()
