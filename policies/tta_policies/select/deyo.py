"""Destroy your object: sure samples whose answer needs the object, weighed by how sure and by how much.

Lee et al., "Entropy is not Enough for Test-Time Adaptation: From the Perspective of Disentangled Factors" (DeYO),
ICLR 2024, arXiv 2403.07366:

    keep where  H(p) < margin ln C  and then  PLPD > threshold
    w = exp(E0 - H(p)) + exp(PLPD),   E0 = weight_margin ln C

The weights add. Only what passes the first filter is scored again without its object; where nobody passes, nothing
is scored and no random number is drawn. The first term lies in (C^-0.1, C^0.4] with the paper's margins (up to 2.5
for 10 classes, 15.8 for 1,000), the second in (e^threshold, e]: with many classes entropy rules.

Deviation: margins are always shares of ln C (the authors' class falls back to ln 1000 in places).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from tta_agent.core.types import Selection, View
from tta_agent.scoring.sample_scores import entropy, max_entropy
from tta_policies.select.plpd import Plpd

Weights = Literal["both", "entropy", "plpd", "none"]


class DeyoSelector(Plpd):
    """Entropy, then PLPD, and both as weights. Costs one forward of the samples that are sure enough.

    Args:
        margin: threshold on the entropy as a share of ln C, in (0, 1]; exactly at it is dropped.
        weight_margin: E0 as a share of ln C, in (0, 1].
        weights: which terms weigh; "none" gives every survivor 1.
        plpd: arguments of `Plpd`: threshold, transform, patches, occlusion, seed.
    """

    def __init__(
        self, margin: float = 0.5, weight_margin: float = 0.4, weights: Weights = "both", **plpd: Any
    ) -> None:
        super().__init__(**plpd)
        for name, value in (("margin", margin), ("weight_margin", weight_margin)):
            if not 0 < value <= 1:
                raise ValueError(f"{name} {value} is not a share of ln C in (0, 1]")
        if weights not in ("both", "entropy", "plpd", "none"):
            raise ValueError(f"weights {weights!r} is none of 'both', 'entropy', 'plpd', 'none'")
        self.margin, self.weight_margin, self.weights = margin, weight_margin, weights

    def select(self, view: View) -> Selection:
        """Index and weight of the survivors; the others are counted as `entropy` and `plpd`."""
        h, most = entropy(view.logits), max_entropy(view.logits.shape[1])
        sure = torch.nonzero(h < self.margin * most).flatten()
        if not len(sure):
            return Selection(sure, h[sure], {"entropy": len(h)})
        drop = self.drop(view, sure)
        kept = torch.nonzero(drop > self.threshold).flatten()
        index = sure[kept]
        dropped = {"entropy": len(h) - len(sure), "plpd": len(sure) - len(index)}
        return Selection(index, self._weight(self.weight_margin * most - h[index], drop[kept]), dropped)

    def _weight(self, below: Tensor, drop: Tensor) -> Tensor:
        """exp(E0 - H) + exp(PLPD), or one of them; E0 - H [K] and PLPD [K] -> [K]."""
        if self.weights == "none":
            return torch.ones_like(drop)
        terms = {"entropy": below.exp(), "plpd": drop.exp()}
        return terms["entropy"] + terms["plpd"] if self.weights == "both" else terms[self.weights]
