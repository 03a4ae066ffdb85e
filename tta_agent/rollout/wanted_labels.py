"""Choice of the records whose label is requested."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tta_agent.core import task
from tta_agent.core.types import Answer, Record
from tta_agent.evaluation.paired import BatchPredictions
from tta_agent.labels.requests import drawn
from tta_agent.models.ort_sessions import Session
from tta_agent.rollout.ports import LabelRequests

BAKED = 0.1  # share of records that are asked about for the sake of a bake

# a record with its answer by what serves and by the other graph, if there is one
Row = tuple[Record, Answer, Answer | None]


class WantedLabels:
    """Choice of records: disagreements of serving and candidate, and of a version that bakes and its baseline.

    Args:
        requests: makes the requests within their budget, or None.
        clock: seconds since the epoch, as the stream counts them.
        salt: of the draw, see `drawn`.
    """

    def __init__(
        self, requests: LabelRequests | None, clock: Callable[[], float] = time.time, salt: bytes = b""
    ) -> None:
        self.requests, self._clock, self._salt = requests, clock, salt

    def consider(self, batch: BatchPredictions, rows: Sequence[Row], baseline: Session | None) -> int:
        """Request labels for some of these records; how many because two graphs disagree.

        Args:
            baseline: session of the rollback target while what serves bakes: of a few records on which serving and
                candidate agree its class counts instead, for the bake needs labels.
        """
        if not (self.requests and rows):
            return 0
        records, serving, others = zip(*rows, strict=True)
        if baseline:
            before = task.answers(batch.by(baseline, [record.id for record in records]))
            others = tuple(
                was if other in (now, None) and drawn(record.id, BAKED, self._salt) else other
                for (record, now, other), was in zip(rows, before, strict=True)
            )
        made = self.requests.consider(records, serving, others, self._clock())
        return sum(request.reason == "disagreement" for request in made)

    def state_dict(self) -> dict[str, Any] | None:
        """Requests made, or None."""
        return self.requests.state_dict() if self.requests else None

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Continue from `state_dict()`."""
        if self.requests and state:
            self.requests.load_state_dict(state)


def served_rows(batch: BatchPredictions) -> list[Row]:
    """The records that carry the served answer, where there is no candidate."""
    answers = ((record, record.served) for record in batch.records.values())
    return [(record, task.answer(z), None) for record, z in answers if z is not None]
