"""Commands that flow back, from a later stage to an earlier one."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Signals:
    """Flags between the stages.

    Attributes:
        propose: the rollout wants a candidate.
        hurry: the copy was on the move when it last proposed: the next candidate may come soon.
        reset: the copy starts over from the source.
        stop: the agent is ending: no further batch is begun.
    """

    propose: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)
    reset: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)
