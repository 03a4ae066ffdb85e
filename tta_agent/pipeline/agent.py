"""The loop: one record from the stream to the served graph, top to bottom.

Three stages, each a thread in production and a plain call in replay; data goes one way through them.

    reader     1 poll, 2 decode                    stream/kafka or stream/embedded; stream/decoder.py
    learner    3 route                             stream/router.py: duplicate, stale, held out, late labels
               4 batch                             stream/batcher.py
               5 score, select, adapt              adaptation/step.py
               6 propose a candidate               pipeline/learner.py
    rollout    7 commands, 8 the server's state    rollout/operator.py, rollout/monitor.py
               9 drift                             rollout/regimes.py: the detector's report, a value
              10 bake: what serves                 rollout/monitor.py, bake.py: roll back
              11 regimes                           rollout/regimes.py: fall back, reinstate
              12 candidates                        rollout/candidates.py: suspend, continue, late labels
              13 gates                             rollout/promoter.py: evaluation/decision.py
              14 swap                              serving/deployment.py
              15 checkpoint                        pipeline/checkpoint.py

`rollout/controller.py` calls 7 to 14 in this order. Only commands flow back: `propose` and `reset` to the learner,
and commit to the reader, which obeys it since it owns the consumer. The checkpoint's barrier travels the same way as
the data, so that the weights, the gate's evidence and the offsets in one file belong together.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tta_agent.core.errors import ConfigError
from tta_agent.core.events import Event
from tta_agent.core.messages import CandidateProposal, CheckpointBarrier, PolledBatch
from tta_agent.core.positions import first_offsets
from tta_agent.core.stream_protocols import StreamConsumer
from tta_agent.core.types import Positions, RawRecord
from tta_agent.pipeline import checkpoint
from tta_agent.pipeline.learner import LearnerStage
from tta_agent.pipeline.record_counts import RecordCounts
from tta_agent.pipeline.signals import Signals
from tta_agent.pipeline.stages import StageThreads
from tta_agent.rollout.controller import RolloutController
from tta_agent.stream.decoder import Decoder
from tta_agent.stream.router import RoutedRecords
from tta_agent.telemetry.event_log import EventLog
from tta_agent.telemetry.facade import Telemetry

STOP_WITHIN_S = 8.0
LAG_EVERY_S = 2.0
JOIN_WITHIN_S = 10.0  # a member for which there are no partitions is ready, too


class Agent:
    """The three stages of one agent, until it is stopped.

    Args:
        signals: the flags that the learner was built with.
        queue_bytes: high-water mark of each queue between two stages.
        threaded: stages in threads of their own; False calls them directly, for replay.
        fence: called before a checkpoint is written; raises where another agent has taken over.
        on_close: called last, to send what waits.

    Attributes:
        unfinished: stages that did not end in time after `stop`; nothing of theirs was touched.
    """

    def __init__(
        self,
        consumer: StreamConsumer,
        decoder: Decoder,
        learner: LearnerStage,
        rollout: RolloutController,
        telemetry: Telemetry,
        journal: EventLog,
        signals: Signals,
        counts: RecordCounts,
        *,
        queue_bytes: int,
        checkpoint_path: Path,
        fingerprint: str,
        threaded: bool = True,
        fence: Callable[[], None] = lambda: None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.consumer, self.decoder, self.learner, self.rollout = consumer, decoder, learner, rollout
        self.telemetry, self.journal, self._signals, self._counts = telemetry, journal, signals, counts
        self._path, self._fingerprint, self._fence = checkpoint_path, fingerprint, fence
        self._on_close = on_close
        self.unfinished: list[str] = []
        self._backlog: deque[RawRecord] = deque()  # polled, not decoded
        self._lag_s = -LAG_EVERY_S
        self._positions: Positions = {}  # at the last portion
        self._topic_ids: Mapping[str, str] = {}
        self._commits: deque[tuple[Positions, str | None]] = deque()
        self._stages = StageThreads(threaded, queue_bytes)
        self._to_rollout = self._stages.before_all("rollout", self.roll_out, self._idle_rollout)
        self._to_learner = self._stages.before_all("learner", learner.on_poll, learner.idle)
        learner.connect(self._to_rollout)
        self._tell_hurry()

    def read(self, timeout_s: float = 0.25) -> int:
        """1 poll, 2 decode; obeys commits. Returns the number of raw records."""
        full = self._to_learner.full()
        self.consumer.pause() if full or self._backlog else self.consumer.resume()
        raws = self.consumer.poll(0.0 if self._backlog and not full else timeout_s)
        self._backlog.extend(raws)
        if raws:
            with self.telemetry.poll(raws[0].topic, len(raws)):
                pass
        self._tell_lag()
        self._topic_ids = self.consumer.topic_ids()
        waiting = len(self._backlog)
        if not full:
            self._decode_portion()
        self._commit()
        return waiting - len(self._backlog)

    def _tell_lag(self) -> None:
        """Now and then: the brokers are asked for it, and all waits for their answer."""
        now_s = time.monotonic()
        if now_s - self._lag_s >= LAG_EVERY_S:
            self._lag_s = now_s
            self.telemetry.stream(self.consumer.lag(), self._stages.held_bytes)

    def _decode_portion(self) -> None:
        """2 decode: what memory can hold of what was polled; the rest waits, and nothing is polled meanwhile."""
        items = self.decoder.read_portion(self._backlog)
        for topic, outcomes in self.decoder.take_outcomes().items():
            self._counts.decoded(topic, outcomes)
        self._counts.joined(self.decoder.joined)
        # what waits in the decoder was polled before the backlog, and so stands before it
        positions = {
            **self.consumer.positions(), **first_offsets(self._backlog), **self.decoder.oldest()
        }  # fmt: skip
        if items or positions != self._positions:
            polled = PolledBatch(items, positions)
            self._positions = positions
            self._to_learner.put(polled, polled.nbytes)

    def _commit(self) -> None:
        while self._commits:
            positions, carrier = self._commits.popleft()
            with self.telemetry.commit(next(iter(positions))[0], carrier):
                self.consumer.commit(positions)

    def roll_out(self, item: RoutedRecords | CandidateProposal | CheckpointBarrier) -> None:
        """7 to 14 in `rollout/controller.py`, 15 checkpoint; sets the signals for the learner."""
        signals = self._signals
        if isinstance(item, CheckpointBarrier):
            self._save(item)
        elif self._decide(item):
            signals.propose.clear()  # nothing that was learnt stays
            signals.reset.set()
        self._tell_hurry()
        if self.rollout.promoter.wants_candidate():
            signals.propose.set()

    def _tell_hurry(self) -> None:
        hurry = self._signals.hurry
        hurry.set() if self.rollout.queue.unsettled else hurry.clear()

    def _decide(self, item: RoutedRecords | CandidateProposal) -> bool:
        if isinstance(item, CandidateProposal):
            return self.rollout.on_proposal(item, stale=self._signals.reset.is_set())
        return self.rollout.on_records(item, self.learner.duty.share)

    def _idle_rollout(self) -> None:
        self.roll_out(RoutedRecords())

    def _save(self, barrier: CheckpointBarrier) -> None:
        state: Mapping[str, Any] = {
            "learner": barrier.learner,
            **self.rollout.state_dict(),
            "positions": dict(barrier.positions),
            "topic_ids": dict(self._topic_ids),
        }
        self._fence()
        checkpoint.save(self._path, self._fingerprint, state)
        if barrier.positions:
            self._commits.append((barrier.positions, barrier.carrier))

    def resume(self) -> bool:
        """Continue from the checkpoint, if there is one; its offsets win over the group's.

        What was learnt is left behind where `serving` was rolled back meanwhile.
        """
        state = checkpoint.load(self._path, self._fingerprint)
        if state is not None:
            self.consumer.seek(state["positions"], state.get("topic_ids"))
            keep = self.rollout.load_state_dict(state)
            self.learner.restore(state["learner"], state["positions"], keep=keep)
            self.journal.event(Event.RESUMED, rounds=self.learner.adaptation.rounds)
        self.rollout.queue.clear_up()
        self._tell_hurry()
        return state is not None

    def run(self) -> None:
        """Until `stop()`; then a last checkpoint and commit.

        Raises:
            TtaError: what ended a stage, after the others have been ended.
        """
        self._stages.start()
        last_words = self.learner.mark
        try:
            self._join()
            self.journal.status(ready=True)
            while not self._signals.stop.is_set():
                self.read()
                self._stages.raise_failure()
        except ConfigError:  # a checkpoint of the wrong model would stand in the way of the right one
            last_words = _nothing
            raise
        finally:
            self.stop()
            self.unfinished = self._stages.finish(STOP_WITHIN_S, last_words, drop=True)
            self._commit()
            self.close()
        self._stages.raise_failure()

    def _join(self) -> None:
        """Read until the group has given us partitions, which takes seconds: what comes from then on is seen."""
        self.read(0.0)
        until_s = time.monotonic() + JOIN_WITHIN_S
        while (
            not self.consumer.assignment() and time.monotonic() < until_s and not self._signals.stop.is_set()
        ):
            self.read()

    def close(self) -> None:
        """Free consumer, labels and hooks; only where `run` did not. A late stage keeps what it still uses."""
        self.consumer.close()
        if not self.unfinished:
            self.learner.router.close()
            self.rollout.close()
        self._on_close()
        self.journal.flush()

    def stop(self) -> None:
        """Ask `run` to end. Safe from a signal handler."""
        self._signals.stop.set()


def _nothing() -> None:
    """No last checkpoint."""
