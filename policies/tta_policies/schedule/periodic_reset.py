"""Back to the source every so many samples, whatever happened.

Press, Schneider, Kümmerer, Bethge, "RDumb: A simple approach that questions our progress in continual test-time
adaptation", NeurIPS 2023, arXiv 2306.05401: every 1,000 batches of 64. Counted here in samples, so that the period
does not change with the batch size; rounds from which nothing was learnt count too, as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tta_agent.core.types import Moment


class PeriodicReset:
    """Asks for a reset every `samples` samples.

    Args:
        samples: the period, >= 1; the paper's 64,000.
    """

    def __init__(self, samples: int = 64_000) -> None:
        if samples < 1:
            raise ValueError(f"samples {samples} is not a period of at least 1")
        self.samples = samples
        self._seen = 0

    def after(self, moment: Moment) -> bool:
        """True when the period is over."""
        self._seen += moment.report.seen
        return self._seen >= self.samples

    def reset(self) -> None:
        """A new period."""
        self._seen = 0

    def state_dict(self) -> dict[str, Any]:
        """Samples since the last reset."""
        return {"seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._seen = state["seen"]
