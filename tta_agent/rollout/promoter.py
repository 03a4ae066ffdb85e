"""Promotion of candidates: judged against the served version, then promoted, or rejected with the reason."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tta_agent.core.drift import Drift
from tta_agent.core.events import Event
from tta_agent.core.messages import CandidateProposal
from tta_agent.core.types import GateResult, Label
from tta_agent.evaluation.candidate import CandidateEvaluation
from tta_agent.evaluation.decision import Decision, GateSet
from tta_agent.evaluation.paired import BatchPredictions
from tta_agent.evaluation.phase import Phase
from tta_agent.rollout.approval import Approval, ApprovalAnswer
from tta_agent.rollout.candidates import CandidateQueue
from tta_agent.rollout.limits import RolloutLimits
from tta_agent.rollout.monitor import ServingMonitor
from tta_agent.rollout.wanted_labels import Row, WantedLabels, served_rows
from tta_agent.serving.deployment import ServedModel
from tta_agent.serving.promotion import PromotionRecord
from tta_agent.telemetry.facade import Telemetry

LATEST_LABELS = 1000  # labels by which it is told whether they come on request
CAMPAIGN = 60  # label requests for a candidate on any record; they certify a gain of ten points
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PromotionRules:
    """Numbers of the promotion; `tta_agent.settings.rollout_groups` describes each."""

    patience_records: int
    guarded_ttl_s: float = 86_400.0


class Promoter:
    """Judge of the running candidate; promotes it once it is proven, approved and allowed.

    Args:
        frozen: why nothing may be swapped now, or None (roll-backs may).
        clock: seconds since the epoch, as the stream counts them.
    """

    def __init__(
        self,
        served: ServedModel,
        queue: CandidateQueue,
        gates: GateSet,
        limits: RolloutLimits,
        approval: Approval,
        monitor: ServingMonitor,
        wanted: WantedLabels,
        telemetry: Telemetry,
        rules: PromotionRules,
        *,
        frozen: Callable[[], str | None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._served, self._queue, self._gates, self._limits = served, queue, gates, limits
        self._approval, self._monitor, self._wanted, self._telemetry = approval, monitor, wanted, telemetry
        self._rules, self._frozen, self._clock = rules, frozen, clock
        self._asked: deque[bool] = deque(maxlen=LATEST_LABELS)  # whether each was requested
        self._labels_come = False
        self._announced: int | None = None

    @property
    def labels_used(self) -> int:
        """Labels that counted for a candidate."""
        return self._queue.labels_used

    def wants_candidate(self) -> bool:
        """Whether no cool-down holds."""
        return not self._limits.cools(self._clock())

    def begin(self, proposal: CandidateProposal) -> None:
        """A proposal of the copy: it may begin an evaluation, which may want labels of records that are known."""
        batch, rows = self._queue.begin(proposal, replaces=self._on_request())
        if rows and self._queue.running:
            self._request(self._queue.running, batch, rows, batch)

    def _on_request(self) -> bool:
        """Whether most labels are requested ones.

        Then a provisional candidate costs its successor nothing: labels are requested of held-out records, which
        count for both. Of labels at random four in five are of records that have taught the successor.
        """
        return self._wanted.requests is not None and 2 * sum(self._asked) >= len(self._asked)

    def on_records(
        self, batch: BatchPredictions, held: BatchPredictions, labels: Sequence[Label], drift: Drift
    ) -> None:
        """Records to evaluate a candidate on, then labels; a verdict where there is one.

        Args:
            held: the held-out ones, of which labels are requested while there is no candidate.
        """
        self._queue.on_drift(drift)
        self._queue.recent.add(list(held.records.values()))
        running = self._queue.running
        self._request(running, batch, running.on_records(batch) if running else served_rows(held), held)
        self._labels_come = self._labels_come or bool(labels)
        if requests := self._wanted.requests:
            self._asked.extend(requests.asked(label.id) for label in labels)
        self._queue.recent.on_labels(labels)
        self._queue.on_labels(labels)
        if running:
            self._judge(running)
        self._served.journal.status(labels_used=self.labels_used)

    def _request(
        self,
        evaluation: CandidateEvaluation | None,
        batch: BatchPredictions,
        rows: Sequence[Row],
        held: BatchPredictions,
    ) -> None:
        """Request labels; of held-out records only, which count for the next candidate as well, while this one is
        provisional, and once it has had its campaign."""
        provisional = evaluation and evaluation.provisional and self._on_request()
        if evaluation and (provisional or evaluation.requested >= CAMPAIGN):
            rows = [row for row in rows if row[0].id in held.records]
        made = self._wanted.consider(batch, rows, self._monitor.rollback_session())
        if evaluation:
            evaluation.requested += made

    def _judge(self, evaluation: CandidateEvaluation) -> None:
        decision = evaluation.judge(self._gates, labels_come=self._labels_come)
        if decision is not None:
            self._report(evaluation, decision)
        if evaluation.phase is Phase.PROVEN and evaluation.decision:  # what holds it back may have changed
            self._try_to_promote(evaluation, evaluation.decision)
        elif decision and decision.outcome == "rejected":
            self._conclude("rejected", evaluation, decision)
        elif decision and evaluation.overdue(self._rules.patience_records, labels_come=self._labels_come):
            self._conclude("expired", evaluation, decision)

    def _report(self, evaluation: CandidateEvaluation, decision: Decision) -> None:
        held = {} if decision.outcome == "proven" else {"awaiting": None, "waits": None}
        findings = [asdict(result) for result in decision.results]
        self._served.journal.status(trial=evaluation.version.number, findings=findings, **held)

    def _try_to_promote(self, evaluation: CandidateEvaluation, decision: Decision) -> None:
        """Ask freeze, limits and approval about a proven candidate, then swap, wait or refuse."""
        if reason := self._frozen() or self._limited():
            evaluation.hold(reason)
            self._served.journal.status(waits=reason)
            return
        number, findings = evaluation.version.number, [asdict(result) for result in decision.results]
        answer = self._approval.of(number, {"version": number, "proof": decision.proof, "findings": findings})
        if answer is None:
            self._await_approval(evaluation, decision)
        elif answer.yes:
            self._promote(evaluation, decision, answer)
        else:
            refused = answer.reason or f"refused by {answer.by}"
            self._conclude(f"{decision.proof}, {refused}", evaluation, decision)

    def _limited(self) -> str | None:
        return self._limits.forbids(self._clock()) if self._approval.mode != "never" else None

    def _await_approval(self, evaluation: CandidateEvaluation, decision: Decision) -> None:
        number = evaluation.version.number
        if self._announced != number:
            self._served.say(Event.AWAITING, version=number, proof=decision.proof)
        self._announced = number
        evaluation.hold("approval")
        self._served.journal.status(awaiting=number, waits="approval")

    def _conclude(self, outcome: str, evaluation: CandidateEvaluation, decision: Decision) -> None:
        self._trace(evaluation, decision.results)
        self._queue.end(outcome, decision.results)

    def _trace(self, evaluation: CandidateEvaluation, results: Sequence[GateResult]) -> None:
        with self._telemetry.gate(evaluation.carrier) as stage:
            for result in results:
                stage.finding(result)

    def _promote(self, evaluation: CandidateEvaluation, decision: Decision, answer: ApprovalAnswer) -> None:
        """The swap."""
        self._trace(evaluation, decision.results)
        now_s = self._clock()
        expires_s = now_s + self._rules.guarded_ttl_s if decision.proof == "guarded" else None
        baseline = self._served.registry.last_proven()
        counts = {name: getattr(evaluation.pairs, name) for name in ("wins", "losses", "labels", "records")}
        record = PromotionRecord(decision.proof, decision.results, counts, answer.by, expires_s)
        if not self._served.promote(evaluation.version, evaluation.session, record, evaluation.carrier):
            self._queue.end("swap failed", decision.results)
            self._limits.trip(now_s)
            return
        self._queue.promoted()
        self._limits.swapped(now_s)
        self._monitor.begin(baseline, expires_s)

    def state_dict(self) -> dict[str, Any]:
        """Evaluations, and labels asked for."""
        counts = {"serving": self._served.version.number, "labels_used": self.labels_used}
        labels = {"labels_come": self._labels_come, "asked": list(self._asked)}
        return {**counts, **labels, "queue": self._queue.state_dict(), "wanted": self._wanted.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the evaluations, unless a swap came after the checkpoint."""
        self._queue.labels_used, self._labels_come = state["labels_used"], state["labels_come"]
        self._asked = deque(state.get("asked", ()), maxlen=LATEST_LABELS)  # older checkpoints have none
        self._wanted.load_state_dict(state["wanted"])
        if state["serving"] == self._served.version.number:
            self._queue.load_state_dict(state["queue"])
