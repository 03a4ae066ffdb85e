"""The rollout's order of steps, for everything that reaches its thread.

    commands ─▶ server ─▶ drift ─▶ bake ─▶ regimes ─▶ candidate ─▶ gates ─▶ swap
    operator    monitor   regimes  monitor  regimes    candidates   promoter  promoter

A step that takes a version back, or a person's reset, makes adaptation start over; the steps after it are left out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tta_agent.core.errors import StoreError
from tta_agent.core.messages import CandidateProposal
from tta_agent.core.types import Record
from tta_agent.evaluation.paired import BatchPredictions
from tta_agent.labels.requests import drawn
from tta_agent.rollout.candidates import CandidateQueue
from tta_agent.rollout.monitor import ServingMonitor
from tta_agent.rollout.operator import OperatorCommands
from tta_agent.rollout.promoter import Promoter
from tta_agent.rollout.regimes import RegimeFollower
from tta_agent.serving.deployment import ServedModel
from tta_agent.stream.router import RoutedRecords

EVALUATED = b"tta-evaluated"  # this draw is independent of others by the same salt
WATCHED_DRAW = b"tta-watched"
WATCHED = 0.2  # of the records that teach, at rest: by these and the held-out ones a change is seen
log = logging.getLogger(__name__)


class RolloutController:
    """Calls the steps in their order.

    Args:
        share: of the records that teach, on which candidates are evaluated, too.
        salt: of their draw, so that no client can choose.
        close: ends what was opened for them.
    """

    def __init__(
        self,
        served: ServedModel,
        operator: OperatorCommands,
        monitor: ServingMonitor,
        regimes: RegimeFollower,
        queue: CandidateQueue,
        promoter: Promoter,
        close: Callable[[], None] = lambda: None,
        *,
        share: float = 1.0,
        salt: bytes = b"",
    ) -> None:
        self._share, self._salt = share, salt
        self.served, self.operator, self.monitor, self.regimes = served, operator, monitor, regimes
        self.queue, self.promoter, self.close = queue, promoter, close

    def on_records(self, records: RoutedRecords, share: float = 1.0) -> bool:
        """One poll's held-out records, teaching records and labels; whether adaptation starts over.

        Args:
            share: of what is evaluated else, where learning rests and nothing is urgent.
        """
        again = self._attend()
        self.queue.taught.add(records.teach)
        arrived = BatchPredictions(in_order([*records.held, *records.teach]))
        held, taught = arrived.only(records.held), arrived.only(records.teach)
        watched = self._drawn(records.teach, max(share, WATCHED), WATCHED_DRAW)
        drift = self.regimes.observe(held, arrived.only(watched))
        again = self.monitor.on_records(held, taught, records.labels) or again
        if again:
            self.queue.end_all("overruled")
            return True
        self.regimes.follow(drift)
        try:
            self.promoter.on_records(
                arrived.only(self._evaluated(records, share)), held, records.labels, drift
            )
        except (
            StoreError
        ) as error:  # raised before anything has changed: the next evidence finds all as it was
            log.warning("no verdict: %s", error)
        return False

    def _evaluated(self, records: RoutedRecords, part: float) -> list[Record]:
        """Held-out records and the drawn share of those that teach, in order of arrival."""
        return in_order([*records.held, *self._drawn(records.teach, self._share * part, EVALUATED)])

    def _drawn(self, records: Sequence[Record], share: float, draw: bytes) -> Sequence[Record]:
        if share >= 1:
            return records
        return [record for record in records if drawn(record.id, share, self._salt, draw)]

    def on_proposal(self, proposal: CandidateProposal, *, stale: bool = False) -> bool:
        """A snapshot of the copy; whether adaptation starts over.

        Args:
            stale: the copy has been told to start over, so that its proposals are of before.
        """
        again = self._attend()
        if again:
            self.queue.end_all("overruled")
        elif not stale:
            self.promoter.begin(proposal)
        return again

    def _attend(self) -> bool:
        """Commands, and the server's own state."""
        again = self.operator.obey()
        return self.monitor.check_server() or again

    def state_dict(self) -> dict[str, Any]:
        """Evaluations, bakes and limits."""
        taught = self.queue.taught.state_dict()
        return {
            "promoter": self.promoter.state_dict(),
            "monitor": self.monitor.state_dict(),
            "taught": taught,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Continue from `state_dict()`; False where the version of the checkpoint was taken back meanwhile.

        Then nothing counts that was learnt.
        """
        self.queue.taught.load_state_dict(state["taught"])
        if self.served.rolled_back_from(state["promoter"]["serving"]):
            self.monitor.load_state_dict({**state["monitor"], "deployments": []})
            return False
        self.monitor.load_state_dict(state["monitor"])
        self.promoter.load_state_dict(state["promoter"])
        return True


def in_order(records: Sequence[Record]) -> list[Record]:
    """Records by time, then by place in their partition."""
    return sorted(records, key=lambda record: (record.time_s, record.offset))
