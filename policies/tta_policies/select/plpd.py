"""Keep the samples whose answer needs the object: destroying it must cost the answer some of its probability.

Lee et al., "Entropy is not Enough for Test-Time Adaptation" (DeYO), ICLR 2024, arXiv 2403.07366, the
pseudo-label probability difference:

    PLPD(x) = p(y | x) - p(y | x'),   y = argmax_c p(c | x),   x' = x with the object destroyed
    keep where PLPD > threshold

Both answers are the copy's as it is now, x' without gradient. A sample that is answered the same without its
object was answered by something else: colour, texture, the scene.

x' is scored in a batch of only those that came as far as this selector, as the authors do it. With BatchNorm its
statistics are those of these few: after a strict filter PLPD becomes noisy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tta_agent.core import task
from tta_agent.core.types import Selection, View
from tta_policies.select.destroy import Destroyer


class Plpd(Destroyer):
    """Samples whose answer depends on the object. Costs one forward of those that came this far.

    Args:
        threshold: least PLPD, in [-1, 1); a sample exactly at it is dropped. The paper's 0.3 for ImageNet-C with
            BatchNorm, 0.2 for GroupNorm, LayerNorm and CIFAR-like data, 0.5 for spurious correlations.
        destroy: arguments of `tta_policies.select.destroy.Destroyer`.
    """

    def __init__(self, threshold: float = 0.2, **destroy: Any) -> None:
        super().__init__(**destroy)
        if not -1 <= threshold < 1:
            raise ValueError(f"threshold {threshold} is not a difference of probabilities in [-1, 1)")
        self.threshold = threshold

    def select(self, view: View) -> Selection:
        """Index of those that need the object, each with weight 1; the others are counted as `plpd`."""
        drop = self.drop(view, torch.arange(len(view.x), device=view.x.device))
        index = torch.nonzero(drop > self.threshold).flatten()
        return Selection(index, torch.ones_like(drop[index]), {"plpd": len(drop) - len(index)})

    @torch.no_grad()
    def drop(self, view: View, index: Tensor) -> Tensor:
        """PLPD of the samples `index` [K] -> [K], -1 .. 1. High = the answer needs the object."""
        p = view.logits[index].softmax(dim=1)
        without = view.predict(self.destroyed(view.x[index])).float().softmax(dim=1)
        answer = task.decide(p).unsqueeze(1)
        drop = (p.gather(1, answer) - without.gather(1, answer)).squeeze(1)
        return task.per_record(drop)  # type: ignore[no-any-return]
