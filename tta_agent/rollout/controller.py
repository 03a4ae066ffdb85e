"""The last room: what serves is watched first, then the candidate is judged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tta_agent.core.errors import StoreError
from tta_agent.core.messages import CandidateProposal
from tta_agent.core.types import Label
from tta_agent.evaluation.paired import BatchPredictions
from tta_agent.rollout.monitor import ServingMonitor
from tta_agent.rollout.promoter import Promoter
from tta_agent.stream.router import RoutedRecords

log = logging.getLogger(__name__)


class RolloutController:
    """Court and sentry, in the order in which they hear of things.

    Args:
        close: ends what was opened for them.
    """

    def __init__(
        self, court: Promoter, sentry: ServingMonitor, close: Callable[[], None] = lambda: None
    ) -> None:
        self.court, self.sentry, self.close = court, sentry, close

    def decide(self, item: RoutedRecords | CandidateProposal, *, stale: bool = False) -> bool:
        """7 to 9. Whether adaptation starts over: a version was taken back, or somebody asked for it.

        Args:
            stale: the copy has been told to start over, so that its proposals are of before.
        """
        again = self.sentry.attend()
        if isinstance(item, RoutedRecords):
            asked = BatchPredictions(item.held)
            again = self.sentry.hear(asked, BatchPredictions(item.teach), item.labels) or again
            if not again:
                self._judge(asked, item.labels)
        elif not (stale or again):
            self.court.open(item)
        if again:
            self.court.start_over()
        return again

    def _judge(self, asked: BatchPredictions, labels: Sequence[Label]) -> None:
        try:
            self.court.hear(asked, labels)
        except (
            StoreError
        ) as error:  # raised before anything has changed: the next evidence finds the trial as it was
            log.warning("no verdict: %s", error)

    def state_dict(self) -> dict[str, Any]:
        """Trial, watch and pace."""
        return {"court": self.court.state_dict(), "sentry": self.sentry.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Continue from `state_dict()`; False where `serving` has gone back meanwhile: then nothing learnt counts."""
        if self.court.serving.number < state["court"]["serving"]:
            self.sentry.load_state_dict({**state["sentry"], "posts": []})
            return False
        self.sentry.load_state_dict(state["sentry"])
        self.court.load_state_dict(state["court"])
        return True
