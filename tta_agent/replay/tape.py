"""Recording as a stream consumer: the serving graph answers each record, and labels are delivered late."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from tta_agent.adaptation.step import StepResult
from tta_agent.core import task
from tta_agent.core.stream_protocols import WritingCodec
from tta_agent.core.types import Answer, Array, Done, Headers, Partition, Positions, RawRecord
from tta_agent.models.ort_sessions import HotSwapSession, Session, raw_answer, run, session_output
from tta_agent.replay.marks import Marks
from tta_agent.stream.batcher import Batch
from tta_agent.stream.recordings.reader import Recording, Row

POLL = 8  # records a poll: what serves changes between two of them
REQUESTS = "label-requests"  # topic


@dataclass(frozen=True, slots=True)
class Late:
    """Delivery of labels, and speed of the replay.

    Attributes:
        label_rate: share of labelled records, or of requests with `on_request`, whose label arrives, 0 .. 1.
        label_delay_s: recorded seconds until it arrives, from the record or from the request.
        seed: of the choice of records.
        speed: recorded seconds a second; infinite for as fast as the machine allows.
        on_request: whether labels arrive only for requests of the agent.
    """

    label_rate: float = 0.5
    label_delay_s: float = 5.0
    seed: int = 0
    speed: float = math.inf
    on_request: bool = False


class Tape:
    """Stream consumer that plays a recording from the beginning to the end, once.

    Attributes:
        pair: session that serves, and may be swapped.
        source: session of the source.
    """

    pair: HotSwapSession
    source: Session

    def __init__(self, recording: Recording, late: Late, codec: WritingCodec) -> None:
        self._recording, self._rows, self._how, self._codec = recording, iter(recording), late, codec
        self._random = np.random.default_rng(late.seed)
        self._late: deque[tuple[float, str, Answer]] = deque()
        self._truth: dict[str, tuple[int, Answer]] = {}  # id -> row, label
        self._began: tuple[float, float] | None = None
        self.marks = Marks.empty(len(recording))
        self.ended = False
        self.now_s = 0.0
        self.answering_s = self.waiting_s = 0.0  # seconds that are not the agent's
        self.records = self.labels = self.used = 0

    def poll(self, timeout_s: float) -> Sequence[RawRecord]:
        """Next records, as a server would log them, and the labels that are due."""
        rows = list(islice(self._rows, POLL))
        if not rows:
            self.ended = True
            return []
        self._wait(rows[-1].time_s)
        started_s = time.perf_counter()
        x = self._recording.model_input(rows)
        number, session = self.pair.current()
        answers = raw_answer(session, x)
        served = session_output(session).logits(answers)
        self._mark(rows, run(self.source, x) if number else served, served, number)
        self.answering_s += time.perf_counter() - started_s
        return [*self._inferences(rows, x, answers, number), *self._due_labels()]

    def _wait(self, now_s: float) -> None:
        self.now_s = max(now_s, self.now_s) if self.records else now_s  # partitions may be out of step
        began_s, began_now_s = self._began = self._began or (time.monotonic(), self.now_s)
        if np.isfinite(self._how.speed):
            pause_s = began_s + (self.now_s - began_now_s) / self._how.speed - time.monotonic()
            time.sleep(max(pause_s, 0.0))
            self.waiting_s += max(pause_s, 0.0)

    def _mark(self, rows: Sequence[Row], source: Array, served: Array, number: int) -> None:
        for i, row in enumerate(rows, self.records):
            self.marks.time_s[i], self.marks.version[i] = row.time_s, number
            if row.domain is not None:
                self.marks.name(i, row.domain)
        for who, answers in (("source", source), ("served", served)):
            for i, (row, answer) in enumerate(zip(rows, task.answers(answers), strict=True), self.records):
                if row.label is not None:
                    self.marks.right[who][i] = answer == row.label

    def _inferences(self, rows: Sequence[Row], x: Array, answers: Array, number: int) -> Iterator[RawRecord]:
        for row, sample, answer in zip(rows, x, answers, strict=True):
            key, value, headers = self._codec.encode_inference(
                row.id, sample[None], answer[None], number, source="replay", model="replay",
                time_s=row.time_s, entity=row.key,
            )  # fmt: skip
            yield self._raw("inference", self.records, row.time_s, key, value, headers)
            if row.label is not None:
                self._truth[row.id] = (self.records, row.label)
                if not self._how.on_request:
                    self._promise(row.id, row.label, row.time_s)
            self.records += 1

    def _promise(self, name: str, label: Answer, since_s: float) -> None:
        if self._random.random() < self._how.label_rate:
            self._late.append((since_s + self._how.label_delay_s, name, label))

    def ask(self, name: str) -> None:
        """Take a request for the label of a record that has been played."""
        if self._how.on_request and name in self._truth:
            self._promise(name, self._truth[name][1], self.now_s)

    def _due_labels(self) -> Iterator[RawRecord]:
        while self._late and self._late[0][0] <= self.now_s:
            due_s, name, label = self._late.popleft()
            truth = frozenset(label) if isinstance(label, tuple) else label
            yield self._raw("labels", self.labels, due_s, *self._codec.encode_label(name, truth, due_s))
            self.labels += 1

    @staticmethod
    def _raw(
        topic: str, offset: int, time_s: float, key: bytes | None, value: bytes | None, headers: Headers
    ) -> RawRecord:
        return RawRecord(topic, 0, offset, int(time_s * 1000), key, value, headers)

    def observe(self, batch: Batch, done: StepResult) -> None:
        """Mark the online predictions of the adapter on a batch that it has learnt from."""
        self.used += done.report.used
        for record, answer in zip(batch.records, task.answers(done.logits), strict=True):
            row, label = self._truth.pop(record.id, (-1, -1))
            if row >= 0:
                self.marks.right["online"][row] = answer == label

    def pause(self) -> None:
        """Do nothing: records come when they are polled."""

    def resume(self) -> None:
        """Do nothing, as `pause`."""

    def lag(self) -> int:
        """Number of records that are left."""
        return len(self._recording) - self.records

    def assignment(self) -> Sequence[Partition]:
        """Partitions: one of each topic."""
        return [("inference", 0), ("labels", 0)]

    def positions(self) -> Positions:
        """After the records that were played."""
        return {("inference", 0): self.records, ("labels", 0): self.labels}

    def topic_ids(self) -> Mapping[str, str]:
        """None that could change."""
        return {}

    def seek(self, positions: Positions, topic_ids: Mapping[str, str] | None = None) -> None:
        """Do nothing: a replay is never resumed."""

    def commit(self, positions: Positions) -> None:
        """Do nothing, as `seek`."""

    def close(self) -> None:
        """Do nothing: no file is open."""


class Annotators:
    """Producer that takes the agent's label requests and drops everything else."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        on_done: Done | None = None,
    ) -> None:
        """Take a label request; drop a record of another topic."""
        if topic == REQUESTS:
            self._tape.ask((key or b"").decode())
        if on_done is not None:
            on_done(None)

    def flush(self) -> None:
        """Do nothing: no record waits."""

    def close(self) -> None:
        """Do nothing: no file is open."""
