"""The learner's stage: routing, adaptation batch by batch, proposals of candidates, checkpoint barriers."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from tta_agent.adaptation.served_check import ServedCheck
from tta_agent.adaptation.step import Adaptation, StepResult
from tta_agent.core.events import Event
from tta_agent.core.messages import CandidateProposal, CheckpointBarrier, PolledBatch
from tta_agent.core.positions import first_offsets, least
from tta_agent.core.types import Partition, Positions, Record
from tta_agent.pipeline.cadence import Cadence
from tta_agent.pipeline.duty_cycle import DutyCycle
from tta_agent.pipeline.record_counts import RecordCounts
from tta_agent.pipeline.signals import Signals
from tta_agent.pipeline.stack_buffer import StackBuffer
from tta_agent.pipeline.stages import NextStage
from tta_agent.stream.batcher import Batch, Batcher
from tta_agent.stream.router import RecordRouter, RoutedRecords
from tta_agent.telemetry.event_log import EventLog
from tta_agent.telemetry.facade import Telemetry


class LearnerStage:
    """Owns the accelerator.

    Args:
        duty: choice of the batches that are learnt from; the others are neither scored nor learnt from.
        learns: False in mode observe: no proposal is made.
        check: of the deployed model against the stream; batches wait for it.
        observer: called with each batch and its result (replay, tests).

    Attributes:
        routed_total: records by what became of them.
    """

    def __init__(
        self,
        router: RecordRouter,
        batcher: Batcher,
        adaptation: Adaptation,
        telemetry: Telemetry,
        journal: EventLog,
        cadence: Cadence,
        signals: Signals,
        counts: RecordCounts,
        duty: DutyCycle,
        *,
        learns: bool = True,
        check: ServedCheck | None = None,
        observer: Callable[[Batch, StepResult], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.router, self.batcher, self.adaptation, self.duty = router, batcher, adaptation, duty
        self._telemetry, self._journal, self._cadence, self._signals = telemetry, journal, cadence, signals
        self._counts, self._learns, self._observer, self._clock = counts, learns, observer, clock
        self._check, self._checked = check, check is None
        self._positions: dict[Partition, int] = {}
        self._proposed = self._marked = 0  # rounds at the last proposal and at the last checkpoint
        self._changed = 0  # rounds at the last change of regime
        self._hurried = True  # as at the beginning, which is no change
        self._carrier: str | None = None
        self._stacked = StackBuffer()
        self.routed_total: Counter[str] = Counter()
        counts.labelled(router.label_counts)

    def connect(self, rollout: NextStage) -> None:
        """Set the stage that takes records, proposals and barriers."""
        self._to_rollout = rollout

    def on_poll(self, polled: PolledBatch) -> None:
        """3 route, 4 batch, 5 adapt, 6 propose; then the barrier of the next checkpoint."""
        self._obey_reset()
        records = self.router.sort(polled.items)
        self._checked = self._check is None or self._check.passed([*records.held, *records.teach])
        self._adapt(self.batcher.full(records.teach, self._clock))
        self._positions.update(polled.positions)
        evidence = self._evidence(records)
        self._report(records, evidence)
        self._to_rollout.put(evidence, evidence.nbytes)
        self._maybe_propose()
        if self.adaptation.rounds - self._marked >= self._cadence.checkpoint_every:
            self.mark()

    def idle(self) -> None:
        """Adapt on a batch that has waited for long enough; called while nothing comes."""
        self._obey_reset()
        self._journal.status()
        if self.router.waiting():
            self.on_poll(PolledBatch([], {}))
        if self._checked and (batch := self.batcher.due(self._clock())) is not None:
            self._round(batch)

    def _adapt(self, batches: list[Batch]) -> None:
        """A round for each; once the agent is ending the rest waits, and is read again after a restart.

        All wait while the model has not been checked against the stream.
        """
        for i, (batch, following) in enumerate(zip_longest(batches, batches[1:])):
            if self._signals.stop.is_set() or not self._checked:
                return self.batcher.put_back(batches[i:])
            if self.duty.takes():
                self._round(batch, following)
            else:
                self.adaptation.leave_out(len(batch.records), "rested")

    def _round(self, batch: Batch, following: Batch | None = None) -> None:
        with self._telemetry.process(batch.topic, [record.traceparent for record in batch.records]):
            self._carrier = self._telemetry.context()
            self.adaptation.accelerator.expect(following.x if following else None)
            done = self.adaptation.round(batch.x, batch.served_by_source())
        self._telemetry.round_done("adapted" if done.report.used else "skipped", batch.records[-1].time_s)
        if self._observer:
            self._observer(batch, done)
        numbers = done.numbers()
        self.duty.learnt(numbers["entropy"])
        totals, share = dict(self.adaptation.totals), self.duty.share
        self._journal.status(rounds=self.adaptation.rounds, totals=totals, learning_share=share, **numbers)

    def _maybe_propose(self) -> None:
        hurries, self._hurried = self._hurried, self._signals.hurry.is_set()
        if self._hurried and not hurries:
            self._begin_anew()
        copy, before = self.adaptation, self._proposed - self._changed
        soon = self._hurried and copy.settled()
        due = self._cadence.candidate_due(copy.rounds - self._proposed, soon=soon, before=before)
        if not (self._learns and copy.learnt and due and self._signals.propose.is_set()):
            return
        self._signals.propose.clear()
        self._proposed = copy.rounds
        # where classes come in runs, a first candidate has waited until its averages are of all of them
        early = not copy.in_runs() and self._cadence.is_early(min(copy.rounds - self._changed, copy.learnt))
        until = dict(self._positions)
        module, history = copy.adapter.servable(), copy.history(until)
        self._to_rollout.put(CandidateProposal(module, until, history, self._carrier, early))

    def _begin_anew(self) -> None:
        """A shift has come: what was learnt before it does not count. The records of both regimes that wait make a
        round of their own: with 32 of the old ones among 64, a first snapshot served up to 28 points less.
        """
        self._proposed = self._changed = self.adaptation.rounds
        self.duty.change()
        if self._checked and self._proposed and (batch := self.batcher.due(math.inf)) is not None:
            self._round(batch)

    def mark(self) -> None:
        """Cut a checkpoint here: everything before the barrier belongs to it."""
        self._marked = self.adaptation.rounds
        self.router.flush()
        sampled = self.router.waiting()  # as those of the batcher not learnt from: they must come again
        again = {record.identity for record in (*self.batcher.waiting(), *sampled)}
        # the decoder may hold records back, too
        until = least(self._positions, self.batcher.oldest(), first_offsets(sampled))
        done = [identity for identity in self.router.dealt_with(until) if identity not in again]
        learner = {**self.adaptation.state_dict(), "done": done, "duty": self.duty.state_dict()}
        self._to_rollout.put(CheckpointBarrier(learner, until, self._carrier))

    def _obey_reset(self) -> None:
        if self._signals.reset.is_set():
            self._signals.reset.clear()
            self.adaptation.reset()
            self.duty.change()
            self._journal.event(Event.RESET)

    def _evidence(self, records: RoutedRecords) -> RoutedRecords:
        """The records without implausible inputs, which would look like drift, or like the failure of a candidate."""
        return replace(records, held=self._plausible(records.held), teach=self._plausible(records.teach))

    def _plausible(self, records: list[Record]) -> list[Record]:
        if not records:
            return records
        kept = self.adaptation.plausible(self._stacked.stack([record.x for record in records]))
        return [record for record, keeps in zip(records, kept.tolist(), strict=True) if keeps]

    def _report(self, records: RoutedRecords, evidence: RoutedRecords) -> None:
        kept, all_of_them = (len(some.held) + len(some.teach) for some in (evidence, records))
        self._counts.screened({"plausible": kept, "implausible": all_of_them - kept})
        held_out = Counter(held_out_implausible=len(records.held) - len(evidence.held))
        outcomes = records.dropped + held_out  # what is 0 is left out
        routed = {**outcomes, "held_out": len(records.held)}
        self.routed_total.update(routed)
        self._counts.routed({**routed, "teach": len(records.teach)})
        self._counts.labelled(self.router.label_counts)
        for outcome in records.outcomes:
            self._telemetry.accuracy_realised(outcome.version, outcome.accuracy)

    def restore(self, state: Mapping[str, Any], positions: Positions, *, keep: bool) -> None:
        """Continue after `positions`, with the learnt state, or (not `keep`) from the source."""
        self._positions = dict(positions)
        self.router.remember(state["done"])
        if keep:
            self.adaptation.load_state_dict(state)
            if "duty" in state:  # older checkpoints have none
                self.duty.load_state_dict(state["duty"])
            self._proposed = self._marked = self.adaptation.rounds
