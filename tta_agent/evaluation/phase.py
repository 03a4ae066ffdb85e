"""The phases of a candidate's evaluation, and the ways between them.

    running ──────▶ proven ──────▶ ended (promoted)
      ▲  │ ▲          │  │
      │  │ └──────────┘  │         new evidence may undo a proof that waits
      │  ▼               ▼
    suspended ◀──────────┘         records of another regime arrive; late labels still count

Every phase may end: rejected, expired, superseded, overruled, the swap failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Phase(StrEnum):
    """Where an evaluation stands."""

    RUNNING = "running"
    """It gathers evidence."""
    PROVEN = "proven"
    """The gates are satisfied; approval, a freeze or the limits of the rollout may hold it back."""
    SUSPENDED = "suspended"
    """It waits for records of its own regime."""
    ENDED = "ended"
    """Nothing changes any more."""


NEXT: Mapping[Phase, frozenset[Phase]] = {
    Phase.RUNNING: frozenset({Phase.RUNNING, Phase.PROVEN, Phase.SUSPENDED, Phase.ENDED}),
    Phase.PROVEN: frozenset({Phase.RUNNING, Phase.PROVEN, Phase.SUSPENDED, Phase.ENDED}),
    Phase.SUSPENDED: frozenset({Phase.RUNNING, Phase.PROVEN, Phase.ENDED}),
    Phase.ENDED: frozenset(),
}
