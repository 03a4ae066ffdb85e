"""Keep the samples on which the model is sure enough to be its own teacher.

Niu et al., "Efficient Test-Time Model Adaptation without Forgetting" (EATA), ICML 2022, arXiv 2204.02610, eq. 2:
keep where H(p) < E0, E0 = 0.4 ln C. Here every kept sample weighs 1; EATA's exp(E0 - H) is `weighted=True`.
"""

from __future__ import annotations

import torch

from tta_agent.core.types import Selection, View
from tta_agent.scoring.sample_scores import entropy, max_entropy


class Entropy:
    """Reliable samples by entropy.

    Args:
        margin: threshold as a share of ln C, in (0, 1]; a sample exactly at the threshold is dropped.
        weighted: weigh each kept sample by exp(margin ln C - H).
    """

    def __init__(self, margin: float = 0.4, weighted: bool = False) -> None:
        if not 0 < margin <= 1:
            raise ValueError(f"margin {margin} is not a share of ln C in (0, 1]")
        self.margin = margin
        self.weighted = weighted

    def select(self, view: View) -> Selection:
        """Index of the sure samples; the others are counted as `entropy`."""
        h = entropy(view.logits)
        limit = self.margin * max_entropy(view.logits.shape[1])
        index = torch.nonzero(h < limit).flatten()
        weight = torch.exp(limit - h[index]) if self.weighted else torch.ones_like(h[index])
        return Selection(index, weight, {"entropy": len(h) - len(index)})
