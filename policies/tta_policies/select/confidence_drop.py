"""Drop the samples that adaptation has made less sure of the source's answer: wrong ones, and unknown classes.

Lee, Das, Choo, Choi, "Towards Open-Set Test-Time Adaptation Utilizing the Wisdom of Crowds in Entropy Minimization",
ICCV 2023, arXiv 2308.06879. Minimising entropy should raise the confidence of every sample by itself; where it
fell, the crowd of the other samples pulled the other way.

    keep where p_a(c | x) >= p_o(c | x) - tolerance,   c = argmax p_o(. | x)

p_a is the copy's answer, p_o the source's, and c the source's choice. Works in front of any adapter; the paper's
optional marginal-entropy term is the option `marginal` of every learning adapter.

Which p_o: with BatchNorm the source must be normalised by the same batch (`reference="batch"`, one more forward).
Against served answers, which use the source's own statistics, the difference would show the change of statistics
and not what was learnt, and the first batch, which must pass entirely, would not. Without BatchNorm both are the
same numbers, and `reference="served"` takes what the server has already answered, at no cost.

No code of the authors was found; the rule is that of their figure 6. Deviations: ties within float noise count as
passed; where nobody passes nobody teaches (one re-implementation then takes everyone).
"""

from __future__ import annotations

from typing import Literal

import torch

from tta_agent.core import task
from tta_agent.core.types import Selection, View


class ConfidenceDrop:
    """Samples on which the copy has not become less sure than the source.

    Args:
        tolerance: a fall of the probability by this much still passes, >= 0; above the noise between two float32
            kernels. With bfloat16 activations take 0.01.
        reference: the source under the statistics of the batch, or as it was served.
    """

    def __init__(self, tolerance: float = 1e-6, reference: Literal["batch", "served"] = "batch") -> None:
        if tolerance < 0:
            raise ValueError(f"tolerance {tolerance} is a difference of probabilities and cannot be negative")
        if reference not in ("batch", "served"):
            raise ValueError(f"reference {reference!r} is neither 'batch' nor 'served'")
        self.tolerance, self.reference = tolerance, reference

    @torch.no_grad()
    def select(self, view: View) -> Selection:
        """Index of those that pass, each with weight 1; the others are counted as `confidence_drop`."""
        original = view.source_batch_logits() if self.reference == "batch" else view.source_logits()
        source, adapted = original.float().softmax(dim=1), view.logits.softmax(dim=1)
        answer = task.decide(source).unsqueeze(1)
        gain = task.per_record((adapted.gather(1, answer) - source.gather(1, answer)).squeeze(1))
        index = torch.nonzero(gain >= -self.tolerance).flatten()
        return Selection(index, torch.ones_like(gain[index]), {"confidence_drop": len(gain) - len(index)})
