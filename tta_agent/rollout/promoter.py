"""Where candidates are judged against what serves, then promoted, or rejected with the reason."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tta_agent.core.messages import CandidateProposal
from tta_agent.core.types import Label, Record, Version
from tta_agent.evaluation.candidate import CandidateEvaluation
from tta_agent.evaluation.decision import Decision, GateSet
from tta_agent.evaluation.paired import BatchPredictions
from tta_agent.labels.requests import drawn
from tta_agent.rollout.approval import Answer, Approval
from tta_agent.rollout.candidates import CandidateQueue
from tta_agent.rollout.factory import EvaluationFactory
from tta_agent.rollout.limits import RolloutLimits
from tta_agent.rollout.ports import LabelRequests, ServingView
from tta_agent.serving.deployment import PromotionRecord, ServedModel
from tta_agent.telemetry.facade import Telemetry

log = logging.getLogger(__name__)
BAKED = 0.1  # share of records that are asked about for the sake of the watch
STEP = 16  # new records that make a new judgement worth its while


@dataclass(frozen=True, slots=True)
class PromotionRules:
    """Numbers of the decision; `tta_agent.settings.rollout_groups` says what each means."""

    alpha: float
    patience_records: int
    consecutive: int = 1
    guarded_ttl_s: float = 86_400.0


class Promoter:
    """Judges and promotes.

    Args:
        rules: numbers of the decision.
        frozen: why nothing may be swapped now, or None (roll-backs may).
        wishes: asks for labels, or None.
        clock: seconds since the epoch, as the stream counts them.
    """

    def __init__(
        self,
        service: ServedModel,
        docket: EvaluationFactory,
        bench: GateSet,
        pace: RolloutLimits,
        approval: Approval,
        sentry: ServingView,
        telemetry: Telemetry,
        rules: PromotionRules,
        *,
        frozen: Callable[[], str | None] = lambda: None,
        wishes: LabelRequests | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.service, self._bench, self._pace = service, bench, pace
        self._approval, self._sentry, self._telemetry, self._rules = approval, sentry, telemetry, rules
        self._frozen, self._wishes, self._clock = frozen, wishes, clock
        self._agenda = CandidateQueue(service, docket, sentry, telemetry, rules.alpha)
        self.labels_used = 0
        self._announced: int | None = None

    @property
    def serving(self) -> Version:
        """What serves now."""
        return self.service.version

    @property
    def trial(self) -> CandidateEvaluation | None:
        """The one that runs."""
        return self._agenda.trial

    @property
    def unsettled(self) -> bool:
        """Whether the copy was on the move when it last proposed: the next candidate may come soon."""
        return self._agenda.unsettled

    def wants_candidate(self) -> bool:
        """No cool-down holds."""
        return not self._pace.cools(self._clock())

    def open(self, proposal: CandidateProposal) -> None:
        """7: a candidate's trial begins, where none runs."""
        self._agenda.open(proposal)

    def start_over(self) -> None:
        """What was learnt does not count any more: all trials end."""
        self._agenda.end_all("overruled")

    def hear(self, asked: BatchPredictions, labels: Sequence[Label]) -> None:
        """8: held-out records, then labels; a verdict where there is one."""
        self._agenda.turn()
        counted = sum([self._agenda.label(label) for label in labels])
        if self.trial and (asked.records or labels or self.trial.waits):
            counted += self._hear(self.trial, asked, labels)
        else:  # an idle tick brings no new evidence to judge
            said = ((record, record.served) for record in asked.records.values())
            self._wish(asked, [(record, int(z.argmax()), None) for record, z in said if z is not None])
        self.labels_used += counted
        self.service.journal.status(labels_used=self.labels_used)

    def _hear(self, trial: CandidateEvaluation, asked: BatchPredictions, labels: Sequence[Label]) -> int:
        """How many labels count."""
        rows = trial.observe(asked)
        self._wish(asked, rows)
        counted = sum([trial.label(label) for label in labels])
        if self._has_news(trial):
            self._judge(trial)
        elif trial.waits and trial.ruling:
            self._proven(trial, trial.ruling)  # the same evidence: only what it waits for may have changed
        return counted

    def _wish(self, asked: BatchPredictions, rows: Sequence[tuple[Record, int, int | None]]) -> None:
        """Labels are wanted of records with the classes by what serves and by the candidate, if there is one.

        Of a few that they agree on it counts what was replaced by a version that still bakes: its watch needs labels.
        """
        if not (self._wishes and rows):
            return
        records, serving, others = zip(*rows, strict=True)
        if rival := self._sentry.rival():
            before = asked.by(rival, [record.id for record in records]).argmax(1).tolist()
            others = tuple(
                was if other in (said, None) and drawn(record.id, BAKED) else other
                for (record, said, other), was in zip(rows, before, strict=True)
            )
        self._wishes.consider(records, serving, others, self._clock())

    @staticmethod
    def _has_news(trial: CandidateEvaluation) -> bool:
        """Enough new evidence; any at all where only a yes is waited for."""
        records, labels = trial.pairing.records, trial.pairing.labels
        if trial.waits:
            return (records, labels) != trial.judged_at
        return labels > trial.judged_at[1] or records - trial.judged_at[0] >= STEP

    def _judge(self, trial: CandidateEvaluation) -> None:
        trial.judged_at = (trial.pairing.records, trial.pairing.labels)
        trial.ruling = ruling = self._bench.rule(trial.evidence())
        findings = [asdict(f) for f in ruling.findings]
        waiting = {} if ruling.outcome == "proven" else {"awaiting": None, "waits": None}
        self.service.journal.status(trial=trial.version.number, findings=findings, **waiting)
        trial.passed = trial.passed + 1 if ruling.outcome == "proven" else 0
        trial.waits = None
        if ruling.outcome == "rejected":
            self._decide("rejected", trial, ruling)
        elif trial.passed >= self._rules.consecutive:
            self._proven(trial, ruling)
        elif ruling.outcome == "open" and trial.overdue(self._rules.patience_records):
            self._decide("expired", trial, ruling)

    def _proven(self, trial: CandidateEvaluation, ruling: Decision) -> None:
        """Proven: what still stands between it and the server?"""
        number = trial.version.number
        trial.waits = self._frozen() or (
            self._pace.forbids(self._clock()) if self._approval.mode != "never" else None
        )
        if trial.waits:
            self.service.journal.status(waits=trial.waits)
            return
        findings = [asdict(f) for f in ruling.findings]
        answer = self._approval.of(number, {"version": number, "proof": ruling.proof, "findings": findings})
        if answer is None:
            self._await(trial, ruling)
        elif answer.yes:
            self._promote(trial, ruling, answer)
        else:
            self._decide(f"{ruling.proof}, {answer.reason or f'refused by {answer.by}'}", trial, ruling)

    def _await(self, trial: CandidateEvaluation, ruling: Decision) -> None:
        number = trial.version.number
        if self._announced != number:
            self.service.say("awaiting", version=number, proof=ruling.proof)
        self._announced, trial.waits = number, "approval"
        self.service.journal.status(awaiting=number, waits=trial.waits)

    def _decide(self, outcome: str, trial: CandidateEvaluation, ruling: Decision) -> None:
        self._record(trial, ruling)
        self._agenda.end(outcome, ruling.findings)

    def _record(self, trial: CandidateEvaluation, ruling: Decision) -> None:
        with self._telemetry.gate(trial.carrier) as stage:
            for finding in ruling.findings:
                stage.finding(finding)

    def _promote(self, trial: CandidateEvaluation, ruling: Decision, answer: Answer) -> None:
        """9: the swap."""
        self._record(trial, ruling)
        now_s = self._clock()
        expires_s = now_s + self._rules.guarded_ttl_s if ruling.proof == "guarded" else None
        baseline = self.service.ledger.last_proven()
        pairing = trial.pairing
        counts = {name: getattr(pairing, name) for name in ("wins", "losses", "labels", "records")}
        grant = PromotionRecord(ruling.proof, ruling.findings, counts, answer.by, expires_s)
        if not self.service.promote(trial.version, trial.candidate, grant, trial.carrier):
            self._agenda.end("swap failed", ruling.findings)
            self._pace.trip(now_s)
            return
        self._agenda.promoted()
        self._pace.swapped(now_s)
        self._sentry.begin(baseline, expires_s)

    def state_dict(self) -> dict[str, Any]:
        """The trials, and what was asked for."""
        wishes = self._wishes.state_dict() if self._wishes else None
        counts = {"serving": self.serving.number, "labels_used": self.labels_used}
        return {**counts, "agenda": self._agenda.state_dict(), "wishes": wishes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the trials, unless a swap came after the checkpoint."""
        self.labels_used = state["labels_used"]
        if self._wishes and state["wishes"]:
            self._wishes.load_state_dict(state["wishes"])
        if state["serving"] == self.serving.number:
            self._agenda.load_state_dict(state["agenda"])

    def clear_up(self) -> None:
        """Conclude candidates that a crash has left without a trial."""
        self._agenda.clear_up()
