"""Results for others: scores and the adapted answer of each record that the copy has answered."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tta_agent.adaptation.result import SCORES, StepResult
from tta_agent.core import task
from tta_agent.core.stream_protocols import Producer
from tta_agent.core.types import Array, Message, Record, softmax
from tta_agent.stream.batcher import Batch
from tta_agent.stream.codecs import cloudevents
from tta_agent.stream.outbox import Outbox

MOST_LOGITS = 1000  # of one record; of more only the best classes are written
BEST = 10
MESSAGE_BYTES = 2048  # of one message beside its logits, at most
DIGITS = 6  # significant ones


class ResultWriter:
    """Writer of one message for each record of a round.

    At least once: records that were read again after a restart are written again, with a greater `ce_run`, and those
    for which the queue has no room are dropped and counted.

    Args:
        producer: to the log; its owner closes it.
        topic: of results.
        dropped: called with `result` (or `too_large`) and how many were dropped.
        close_timeout_s: longest wait of `flush` and `close`.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        producer: Producer,
        topic: str,
        dropped: Callable[[str, int], None] = lambda kind, count: None,
        *,
        close_timeout_s: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._outbox = Outbox(producer, {topic: "result"}, dropped, close_timeout_s=close_timeout_s)
        self.topic, self._clock, self._run = topic, clock, str(int(clock() * 1000))
        self.flush, self.close = self._outbox.flush, self._outbox.close

    def write(self, batch: Batch, result: StepResult) -> None:
        """Queue the results of one round."""
        scores = {name: getattr(result, name) for name in SCORES}
        for i, record in enumerate(batch.records):
            given = {name: _number(values[i]) for name, values in scores.items()}
            make = partial(self._message, record, result.logits[i].copy(), given)
            self._outbox.offer(self.topic, make, result.logits[i].nbytes + MESSAGE_BYTES)

    def _message(self, record: Record, logits: Array, scores: dict[str, float | None]) -> Message:
        adapted = {"answer": _answer(task.answer(logits)), **scores, **_values(logits)}
        served = None if record.served is None else _served(record.served)
        body = {
            "id": record.id,
            "time": record.time_s,
            "version": record.version,
            "served": served,
            "adapted": adapted,
            "agrees": served and served["answer"] == adapted["answer"],
        }
        place = f"{record.topic}/{record.partition}/{record.offset}"
        return cloudevents.result(record.id, body, self._clock(), subject=place, run=self._run)


def _served(logits: Array) -> dict[str, Any]:
    p = softmax(logits[None])[0]
    return {"answer": _answer(task.answer(logits)), "confidence": _number(float(p.max(0).mean()))}


def _answer(answer: int | Sequence[int]) -> int | list[int]:
    return answer if isinstance(answer, int) else list(answer)


def _values(logits: Array) -> dict[str, Any]:
    """All logits [C] or [2, L], or of many classes the best with their logits."""
    if logits.size <= MOST_LOGITS:
        return {"logits": _rounded(logits)}
    if logits.ndim > 1:  # of very many labels their set must do
        return {}
    best = np.argsort(-logits)[:BEST]
    return {"best": [[int(k), _number(logits[k])] for k in best]}


def _rounded(values: Array) -> Any:
    if values.ndim > 1:
        return [_rounded(row) for row in values]
    return [_number(value) for value in values]


def _number(value: float) -> float | None:
    """With six significant digits; None where it is no number, which JSON has not."""
    found = float(value)
    return float(f"{found:.{DIGITS}g}") if math.isfinite(found) else None
