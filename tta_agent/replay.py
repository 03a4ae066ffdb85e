"""A whole policy over a recording: selection, adapter, gate and swap, with labels that come late.

The agent is the real one, its rooms called in turn instead of in threads. The served graph answers every
record before the agent sees it, so that what is measured is what would have been served.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tta_agent import build, models
from tta_agent.agent import Agent
from tta_agent.batching import Batch
from tta_agent.codecs import cloudevents
from tta_agent.sessions import SessionPair, open_session, run
from tta_agent.settings import Settings
from tta_agent.sources.recording import Recording, Row
from tta_agent.swappers.session import SessionSwapper
from tta_agent.teacher import Round
from tta_agent.telemetry import Telemetry
from tta_agent.types import Array, Headers, Partition, Positions, RawRecord

POLL = 32  # records a poll


def replay(
    folder: Path,
    settings: Settings,
    *,
    label_rate: float,
    label_delay_s: float,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Play `folder` and measure.

    Args:
        label_rate: share of records whose label arrives.
        label_delay_s: recorded seconds until it does.
        seed: chooses which.

    Raises:
        ConfigError: the recording or a setting does not fit.
    """
    recording = Recording.open(folder)
    with tempfile.TemporaryDirectory(prefix="tta-replay-") as store:
        mode = "auto" if settings.mode == "shadow" else settings.mode
        paths = settings.store.model_copy(update={"path": Path(store)})
        settings = settings.model_copy(update={"store": paths, "mode": mode})
        source = build.load_source(settings)
        tape = _Tape(recording, label_rate, label_delay_s, seed)
        agent = _assemble(settings, source, tape)
        started_s = time.perf_counter()
        while not tape.ended:
            agent.read()
            progress(tape.records, len(recording))
        seconds = time.perf_counter() - started_s
        events = agent.journal.read_events()
    return {
        **tape.result(),
        **_summary(agent, events),
        "seconds": round(seconds, 3),
        "seconds_forward_only": round(_forward_only(recording, source, settings.adapt.batch_size), 3),
    }


def _assemble(settings: Settings, source: models.Source, tape: _Tape) -> Agent:
    ledger = build.open_ledger(settings, source)
    session = open_session(ledger.get(0).path, threads=settings.model.threads)
    tape.pair, tape.source = SessionPair(0, session), session
    swapper = SessionSwapper(tape.pair, lambda path: open_session(path, threads=settings.model.threads))
    return build.assemble(
        settings,
        source,
        tape,
        _Void(),
        swapper,
        Telemetry.off(),
        clock=lambda: tape.now_s,
        observer=tape.observe,
        threaded=False,
    )


class _Tape:
    """The recording as a Source: answers each record by what serves now, and delivers labels late."""

    pair: SessionPair
    source: Any

    def __init__(self, recording: Recording, label_rate: float, label_delay_s: float, seed: int) -> None:
        self._recording, self._rows = recording, iter(recording)
        self._label_rate, self._label_delay_s = label_rate, label_delay_s
        self._random = np.random.default_rng(seed)
        self._late: deque[tuple[float, str, int]] = deque()
        self._truth: dict[str, int] = {}
        self.ended = False
        self.now_s = 0.0
        self.records = self.labels = 0
        self._right = {"source": 0, "served": 0, "online": 0}
        self._labelled = {"source": 0, "served": 0, "online": 0}
        self.used = 0

    def poll(self, timeout_s: float) -> Sequence[RawRecord]:
        rows = list(islice(self._rows, POLL))
        if not rows:
            self.ended = True
            return []
        self.now_s = rows[-1].time_s
        x = self._recording.model_input(rows)
        number, session = self.pair.current()
        answers = run(session, x)
        self._count("source", rows, run(self.source, x))
        self._count("served", rows, answers)
        return [*self._inferences(rows, x, answers, number), *self._due_labels()]

    def _inferences(self, rows: Sequence[Row], x: Array, answers: Array, number: int) -> Iterator[RawRecord]:
        for row, sample, answer in zip(rows, x, answers, strict=True):
            key, value, headers = cloudevents.encode_inference(
                row.id, sample[None], answer[None], number, source="replay", model="replay",
                time_s=row.time_s, entity=row.key,
            )  # fmt: skip
            yield self._raw("inference", self.records, row.time_s, key, value, headers)
            self.records += 1
            if row.label is not None:
                self._truth[row.id] = row.label
                if self._random.random() < self._label_rate:
                    self._late.append((row.time_s + self._label_delay_s, row.id, row.label))

    def _due_labels(self) -> Iterator[RawRecord]:
        while self._late and self._late[0][0] <= self.now_s:
            due_s, name, label = self._late.popleft()
            yield self._raw("labels", self.labels, due_s, *cloudevents.encode_label(name, label, due_s))
            self.labels += 1

    @staticmethod
    def _raw(
        topic: str, offset: int, time_s: float, key: bytes | None, value: bytes | None, headers: Headers
    ) -> RawRecord:
        return RawRecord(topic, 0, offset, int(time_s * 1000), key, value, headers)

    def observe(self, batch: Batch, done: Round) -> None:
        """The adapter's own answers, in training mode, on what it was taught with."""
        self.used += done.report.used
        predicted = done.logits.argmax(1).tolist()
        for record, answer in zip(batch.records, predicted, strict=True):
            if record.id in self._truth:
                self._labelled["online"] += 1
                self._right["online"] += answer == self._truth.pop(record.id)

    def _count(self, who: str, rows: Sequence[Row], answers: Array) -> None:
        for row, answer in zip(rows, answers.argmax(1).tolist(), strict=True):
            if row.label is not None:
                self._labelled[who] += 1
                self._right[who] += answer == row.label

    def result(self) -> dict[str, Any]:
        """Counts and accuracies; None where nothing was labelled."""
        accuracy = {
            f"{who}_accuracy": self._right[who] / self._labelled[who] if self._labelled[who] else None
            for who in self._right
        }
        return {"records": self.records, "adapted": self.used, **accuracy}

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def lag(self) -> int:
        return len(self._recording) - self.records

    def assignment(self) -> Sequence[Partition]:
        return [("inference", 0), ("labels", 0)]

    def seek(self, positions: Positions) -> None: ...

    def commit(self, positions: Positions) -> None: ...

    def close(self) -> None: ...


class _Void:
    """A producer for a world without a stream to write to."""

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def _summary(agent: Agent, events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    totals = agent.teacher.totals
    return {
        "kept_by_reason": {**totals, **agent.sorted_total},
        "swaps": [event for event in events if event["event"] == "swap"],
        "rollbacks": [event for event in events if event["event"] == "rollback"],
        "verdicts": [event for event in events if event["event"] == "verdict"],
        "labels_used": agent.court.labels_used,
    }


@torch.no_grad()
def _forward_only(recording: Recording, source: models.Source, batch_size: int) -> float:
    """Seconds of nothing but the model's forward passes over the same records."""
    seconds, rows = 0.0, iter(recording)
    while part := list(islice(rows, batch_size)):
        x = torch.from_numpy(recording.model_input(part)).to(source.device)
        started_s = time.perf_counter()
        source.module(x).cpu()
        seconds += time.perf_counter() - started_s
    return seconds
