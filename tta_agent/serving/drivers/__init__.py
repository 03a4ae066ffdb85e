"""Put versions into a model server: one driver a file. What they share is the check of a golden batch."""

import numpy as np

from tta_agent.core.errors import SwapError
from tta_agent.core.types import Array, Golden

TOLERANCE = 1e-3  # of a logit: kernels differ in the last bits between machines and batch sizes


def check_golden(answer: Array, golden: Golden, who: str, tolerance: float = TOLERANCE) -> None:
    """Raise SwapError unless the answer is finite and equals the golden logits."""
    if answer.shape != golden.logits.shape:
        raise SwapError(f"{who} answers shape {list(answer.shape)}; expected {list(golden.logits.shape)}")
    if not np.isfinite(answer).all():
        bad = int(np.count_nonzero(~np.isfinite(answer)))
        raise SwapError(f"{who} answers {bad} values that are not finite on the golden batch; expected none")
    gap = float(np.abs(answer.astype(np.float64) - golden.logits).max(initial=0.0))
    if not gap <= tolerance:
        raise SwapError(
            f"{who} differs from the golden logits by {gap:.3g}; at most {tolerance:g} is allowed"
        )
