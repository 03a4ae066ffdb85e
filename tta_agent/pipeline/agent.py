"""The loop: one record from the stream to the served graph, top to bottom.

Three rooms, each a thread in production and a plain call in replay; data goes one way through them.

    reader    1 poll   2 decode                                       owns the consumer
    learner   3 sort   4 batch   5 score, select, adapt   6 propose   owns the accelerator
    decider   7 compose   8 judge, watch   9 swap   10 checkpoint     owns ledger, gates and server

Only commands flow back: `propose` and `reset` to the learner, and 11 commit to the reader, which obeys it since
it owns the consumer. The checkpoint's marker travels the same way as the data, so that the weights, the gate's
evidence and the offsets in one file belong together.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path

from tta_agent.adaptation.step import Adaptation, StepResult
from tta_agent.core.messages import CandidateProposal, CheckpointBarrier, PolledBatch
from tta_agent.core.protocols import StreamConsumer
from tta_agent.core.types import Partition, Positions
from tta_agent.pipeline import checkpoint
from tta_agent.pipeline.cadence import Cadence
from tta_agent.pipeline.stages import StageThreads
from tta_agent.rollout.controller import RolloutController
from tta_agent.stream.batcher import Batch, Batcher
from tta_agent.stream.router import Decoder, RecordRouter, RoutedRecords
from tta_agent.telemetry.event_log import EventLog
from tta_agent.telemetry.facade import Telemetry

STOP_WITHIN_S = 8.0


class Agent:
    """Reads, learns, decides, until it is stopped.

    Args:
        learns: False in mode observe: no proposal is made.
        observer: called with each batch and its round (replay, tests).
        threaded: rooms in threads of their own; False calls them directly, for replay.
    """

    def __init__(
        self,
        source: StreamConsumer,
        decoder: Decoder,
        sorter: RecordRouter,
        batcher: Batcher,
        teacher: Adaptation,
        decider: RolloutController,
        telemetry: Telemetry,
        journal: EventLog,
        *,
        rhythm: Cadence,
        checkpoint_path: Path,
        fingerprint: str,
        learns: bool = True,
        observer: Callable[[Batch, StepResult], None] | None = None,
        threaded: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.source, self.decoder, self.sorter, self.batcher = source, decoder, sorter, batcher
        self.teacher, self.decider, self.court = teacher, decider, decider.court
        self.telemetry, self.journal = telemetry, journal
        self.rhythm, self._path, self._fingerprint = rhythm, checkpoint_path, fingerprint
        self._learns, self._observer, self._clock = learns, observer, clock
        self._positions: dict[Partition, int] = {}
        self._proposed = self._marked = 0
        self._hurried = False
        self.sorted_total: Counter[str] = Counter()
        self._carrier: str | None = None
        self._propose, self._hurry, self._reset, self._stop = (threading.Event() for _ in range(4))
        self._commits: deque[tuple[Positions, str | None]] = deque()
        self._rooms = StageThreads(threaded, rhythm.queue_bytes)
        self._to_decider = self._rooms.upstream_of_all("decider", self.decide, self._idle_decider)
        self._to_learner = self._rooms.upstream_of_all("learner", self.learn, self._idle_learner)

    # reader

    def read(self, timeout_s: float = 0.25) -> int:
        """1 poll, 2 decode; obeys 11 commit. Returns the number of raw records."""
        self.source.pause() if self._to_learner.full() else self.source.resume()
        raws = self.source.poll(timeout_s)
        if raws:
            known = self.decoder.refused.total()
            items = self.decoder.read(raws)
            self.telemetry.samples("undecodable", self.decoder.refused.total() - known)
            self.journal.status(undecodable=dict(self.decoder.refused))
            after = {(raw.topic, raw.partition): raw.offset + 1 for raw in raws}
            with self.telemetry.poll(raws[0].topic, len(raws)):
                self.telemetry.stream(self.source.lag(), self._rooms.held_bytes)
            chunk = PolledBatch(items, after)
            self._to_learner.put(chunk, chunk.nbytes)
        self._commit()
        return len(raws)

    def _commit(self) -> None:
        while self._commits:
            positions, carrier = self._commits.popleft()
            with self.telemetry.commit(next(iter(positions))[0], carrier):
                self.source.commit(positions)

    # learner

    def learn(self, chunk: PolledBatch) -> None:
        """3 sort, 4 batch, 5 the round, 6 propose; then the marker of the next checkpoint."""
        self._obey_reset()
        piles = self.sorter.sort(chunk.items)
        batches = self.batcher.full(piles.teach, self._clock)
        for batch, following in zip_longest(batches, batches[1:]):
            self._round(batch, following)
        self._positions.update(chunk.positions)
        self._report(piles)
        self._to_decider.wait_for_room()
        self._to_decider.put(piles, piles.nbytes)
        self._maybe_propose()
        if self.teacher.rounds - self._marked >= self.rhythm.checkpoint_every:
            self._mark()

    def _round(self, batch: Batch, following: Batch | None = None) -> None:
        with self.telemetry.process(batch.topic, [record.traceparent for record in batch.records]):
            self._carrier = self.telemetry.context()
            self.teacher.accelerator.expect(following.x if following else None)
            done = self.teacher.round(batch.x, batch.served_by_source())
        self.telemetry.round_done("adapted" if done.report.used else "skipped", batch.records[-1].time_s)
        if self._observer:
            self._observer(batch, done)
        self.journal.status(rounds=self.teacher.rounds, totals=dict(self.teacher.totals), **done.numbers())

    def _maybe_propose(self) -> None:
        hurries, self._hurried = self._hurried, self._hurry.is_set()
        if self._hurried and not hurries:
            self._proposed = self.teacher.rounds  # a shift has come: what was learnt before it does not count
        since = self.teacher.rounds - self._proposed
        ready = self.teacher.learnt and self.rhythm.candidate_due(since, soon=self._hurried)
        if not (self._learns and ready and self._propose.is_set()):
            return
        self._propose.clear()
        self._proposed = self.teacher.rounds
        module, born = self.teacher.adapter.servable(), dict(self._positions)
        self._to_decider.put(CandidateProposal(module, born, self.teacher.history(born), self._carrier))

    def _mark(self) -> None:
        self._marked = self.teacher.rounds
        self.sorter.flush()
        oldest = self.batcher.oldest()  # read, but not yet learnt from: they must come again, the others not
        again = {record.identity for record in self.batcher.waiting()}
        done = [identity for identity in self.sorter.dealt_with(oldest) if identity not in again]
        learner = {**self.teacher.state_dict(), "done": done}
        self._to_decider.put(CheckpointBarrier(learner, {**self._positions, **oldest}, self._carrier))

    def _obey_reset(self) -> None:
        if self._reset.is_set():
            self._reset.clear()
            self.teacher.reset()
            self.journal.event("reset")

    def _report(self, piles: RoutedRecords) -> None:
        for reason, count in {**piles.dropped, "held_out": len(piles.held)}.items():
            self.sorted_total[reason] += count
            self.telemetry.samples(reason, count)
        for outcome in piles.outcomes:
            self.telemetry.accuracy_realised(outcome.version, outcome.accuracy)

    # decider

    def decide(self, item: RoutedRecords | CandidateProposal | CheckpointBarrier) -> None:
        """7 compose, 8 judge and watch, 9 swap, 10 checkpoint."""
        if isinstance(item, CheckpointBarrier):
            self._save(item)
        elif self.decider.decide(item, stale=self._reset.is_set()):
            self._propose.clear()  # nothing that was learnt stays
            self._reset.set()
        self._hurry.set() if self.court.unsettled else self._hurry.clear()
        if self.court.wants_candidate():
            self._propose.set()

    def _save(self, marker: CheckpointBarrier) -> None:
        state = {
            "learner": marker.learner,
            **self.decider.state_dict(),
            "positions": dict(marker.positions),
        }
        checkpoint.save(self._path, self._fingerprint, state)
        self._commits.append((marker.positions, marker.carrier))

    def resume(self) -> bool:
        """Continue from the checkpoint, if there is one; its offsets win over the group's.

        What was learnt is left behind where `serving` has gone back meanwhile: that was a roll-back.
        """
        state = checkpoint.load(self._path, self._fingerprint)
        if state is not None:
            self._positions = dict(state["positions"])
            self.source.seek(self._positions)
            self.sorter.remember(state["learner"]["done"])
            if self.decider.load_state_dict(state):
                self.teacher.load_state_dict(state["learner"])
                self._proposed = self._marked = self.teacher.rounds
            self.journal.event("resumed", rounds=self.teacher.rounds)
        self.court.clear_up()
        return state is not None

    def run(self) -> None:
        """Until `stop()`; then a last checkpoint and commit.

        Raises:
            TtaError: what ended a room, after the others have been ended.
        """
        self._rooms.start()
        self.read(0.0)  # joins the group: what comes from here on is seen
        self.journal.status(ready=True)
        try:
            while not self._stop.is_set():
                self.read()
                self._rooms.raise_failure()
        finally:
            self._rooms.finish(STOP_WITHIN_S, after_first=self._mark)
            self._commit()
            self.close()
        self._rooms.raise_failure()

    def close(self) -> None:
        """End what it holds open; only where `run` did not."""
        self.source.close()
        self.sorter.close()
        self.decider.close()

    def stop(self) -> None:
        """Ask `run` to end. Safe from a signal handler."""
        self._stop.set()

    def _idle_learner(self) -> None:
        self._obey_reset()
        if (batch := self.batcher.due(self._clock())) is not None:
            self._round(batch)

    def _idle_decider(self) -> None:
        self.decide(RoutedRecords())
