"""Where candidates are judged: one at a time against what serves, then promoted, or rejected with the reason."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tta_agent.approval import Answer, Approval
from tta_agent.counsel import Sworn, Wishes
from tta_agent.docket import Docket
from tta_agent.errors import GraphError, LedgerError
from tta_agent.messages import Proposal
from tta_agent.pace import Pace
from tta_agent.pairing import Asked
from tta_agent.service import Grant, Service
from tta_agent.telemetry import Telemetry
from tta_agent.trial import Trial
from tta_agent.types import Finding, Label, Version
from tta_agent.verdict import Bench, Ruling

log = logging.getLogger(__name__)
STEP = 16  # new records that make a new judgement worth its while


@dataclass(frozen=True, slots=True)
class Rules:
    """Numbers of the decision; `tta_agent.decision_groups` says what each means."""

    alpha: float
    patience_records: int
    consecutive: int = 1
    guarded_ttl_s: float = 86_400.0


class Court:
    """Judges and promotes.

    Args:
        rules: the k-th candidate since the last promotion may spend 6 alpha / (pi^2 k^2), which sums to alpha.
        frozen: why nothing may be swapped now, or None (roll-backs may).
        wishes: asks for labels, or None.
        clock: seconds since the epoch, as the stream counts them.
    """

    def __init__(
        self,
        service: Service,
        docket: Docket,
        bench: Bench,
        pace: Pace,
        approval: Approval,
        sentry: Sworn,
        telemetry: Telemetry,
        rules: Rules,
        *,
        frozen: Callable[[], str | None] = lambda: None,
        wishes: Wishes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.service, self._docket, self._bench, self._pace = service, docket, bench, pace
        self._approval, self._sentry, self._telemetry, self._rules = approval, sentry, telemetry, rules
        self._frozen, self._wishes, self._clock = frozen, wishes, clock
        self.trial: Trial | None = None
        self._against = 0  # the version that it is tried against
        self._tried = 0  # candidates since the last promotion
        self.labels_used = 0
        self.unsettled = False  # the copy was on the move when it last proposed: the next may come soon
        self._judged_at = (0, 0)
        self._ruling: Ruling | None = None  # the latest one
        self._waits: str | None = None  # what a proven candidate waits for
        self._announced: int | None = None
        self._carrier: str | None = None

    @property
    def serving(self) -> Version:
        """What serves now."""
        return self.service.version

    def wants_candidate(self) -> bool:
        """No cool-down holds."""
        return not self._pace.cools(self._clock())

    def open(self, proposal: Proposal) -> None:
        """7: compose the candidate's graph, pin it in the ledger, and begin its trial.

        While a trial runs, a proposal only shows whether its candidate is outdated: it is when the copy has moved
        much further from it than it stands from what serves (a shift came meanwhile). Then the trial ends, and
        the next proposal is taken, which comes as soon as the copy has had time to settle. Otherwise the candidate
        stays pinned.
        """
        try:
            with self._telemetry.export(proposal.carrier) as stage:
                graph, session = self._docket.compose(proposal)
                if self.trial:
                    if self.trial.outdated_by(session):
                        self.drop("superseded")
                    return
                version = self.service.ledger.add(graph, self.serving, dict(proposal.history))
                stage.exported(version.sha256, len(graph))
            self._tried, self.unsettled = self._tried + 1, False
            alpha = 6 * self._rules.alpha / (math.pi * self._tried) ** 2
            self.trial = self._docket.trial(version, session, proposal, len(graph), alpha)
        except (GraphError, LedgerError) as error:
            log.error("no candidate: %s", error)
            return
        self._carrier, self._judged_at = proposal.carrier, (0, 0)
        self._against = self.serving.number
        self.service.say("candidate", version=version.number, parent=self.serving.number, **proposal.history)

    def hear(self, asked: Asked, labels: Sequence[Label]) -> None:
        """8: held-out records, then labels; a verdict where there is one. A trial ends when the records change."""
        if self._against != self.serving.number or self._sentry.changed():
            self.drop("superseded")  # its evidence is of other records, or against what serves here no more
        trial = self.trial
        if trial is None or not (asked.records or labels or self._waits):
            self._wish(asked)  # an idle tick brings no new evidence to judge
            return
        rows = trial.observe(asked)
        if self._wishes and rows:
            records, serving, candidate = zip(*rows, strict=True)
            self._wishes.consider(records, serving, candidate, self._clock())
        self.labels_used += sum(trial.label(label) for label in labels)
        self.service.journal.status(labels_used=self.labels_used)
        if self._has_news(trial):
            self._judge(trial)
        elif self._waits and self._ruling:
            self._proven(trial, self._ruling)  # the same evidence: only what it waits for may have changed

    def _wish(self, asked: Asked) -> None:
        """Without a trial only the uniform sample is asked for: how good is what serves?"""
        records = [record for record in asked.records.values() if record.served is not None]
        if self._wishes and records:
            said = [int(record.served.argmax()) for record in records if record.served is not None]
            self._wishes.consider(records, said, None, self._clock())

    def _has_news(self, trial: Trial) -> bool:
        """Enough new evidence; any at all where only a yes is waited for."""
        records, labels = trial.pairing.records, trial.pairing.labels
        if self._waits:
            return (records, labels) != self._judged_at
        return labels > self._judged_at[1] or records - self._judged_at[0] >= STEP

    def _judge(self, trial: Trial) -> None:
        self._judged_at = (trial.pairing.records, trial.pairing.labels)
        self._ruling = ruling = self._bench.rule(trial.evidence())
        findings = [asdict(f) for f in ruling.findings]
        waiting = {} if ruling.outcome == "proven" else {"awaiting": None, "waits": None}
        self.service.journal.status(trial=trial.version.number, findings=findings, **waiting)
        trial.passed = trial.passed + 1 if ruling.outcome == "proven" else 0
        self._waits = None
        if ruling.outcome == "rejected":
            self._decide("rejected", ruling)
        elif trial.passed >= self._rules.consecutive:
            self._proven(trial, ruling)
        elif ruling.outcome == "open" and trial.overdue(self._rules.patience_records):
            self._decide("expired", ruling)

    def _proven(self, trial: Trial, ruling: Ruling) -> None:
        """Proven: what still stands between it and the server?"""
        number = trial.version.number
        self._waits = self._frozen() or (
            self._pace.forbids(self._clock()) if self._approval.mode != "never" else None
        )
        if self._waits:
            self.service.journal.status(waits=self._waits)
            return
        findings = [asdict(f) for f in ruling.findings]
        answer = self._approval.of(number, {"version": number, "proof": ruling.proof, "findings": findings})
        if answer is None:
            self._await(number, ruling)
        elif answer.yes:
            self._promote(trial, ruling, answer)
        else:
            self._decide(f"{ruling.proof}, {answer.reason or f'refused by {answer.by}'}", ruling)

    def _await(self, number: int, ruling: Ruling) -> None:
        if self._announced != number:
            self.service.say("awaiting", version=number, proof=ruling.proof)
        self._announced, self._waits = number, "approval"
        self.service.journal.status(awaiting=number, waits=self._waits)

    def _decide(self, outcome: str, ruling: Ruling) -> None:
        self._record(ruling)
        self.drop(outcome, ruling.findings)

    def _record(self, ruling: Ruling) -> None:
        with self._telemetry.gate(self._carrier) as stage:
            for finding in ruling.findings:
                stage.finding(finding)

    def drop(self, outcome: str, findings: Sequence[Finding] = ()) -> None:
        """End the trial, if there is one."""
        if self.trial is None:
            return
        if not self.trial.pairing.wins + self.trial.pairing.losses:
            self._tried -= 1  # a test in which nothing was decided cannot have erred
        self.unsettled = outcome == "superseded"
        number, self.trial, self._waits = self.trial.version.number, None, None
        self.service.backlog.write(lambda: self.service.ledger.reject(number, outcome, findings))
        self.service.say("verdict", version=number, outcome=outcome, findings=[asdict(f) for f in findings])
        self.service.journal.status(trial=None, verdict={"version": number, "outcome": outcome})

    def _promote(self, trial: Trial, ruling: Ruling, answer: Answer) -> None:
        """9: the swap."""
        self._record(ruling)
        now_s = self._clock()
        expires_s = now_s + self._rules.guarded_ttl_s if ruling.proof == "guarded" else None
        baseline = self.service.ledger.last_proven()
        pairing = trial.pairing
        counts = {name: getattr(pairing, name) for name in ("wins", "losses", "labels", "records")}
        grant = Grant(ruling.proof, ruling.findings, counts, answer.by, expires_s)
        if not self.service.promote(trial.version, trial.candidate, grant, self._carrier):
            self.drop("swap failed", ruling.findings)
            self._pace.trip(now_s)
            return
        self.trial, self._tried, self._waits = None, 0, None
        self.service.journal.status(trial=None, awaiting=None, waits=None)
        self._pace.swapped(now_s)
        self._sentry.begin(baseline, expires_s)

    def state_dict(self) -> dict[str, Any]:
        """The trial and its budget."""
        trial = self.trial.state_dict() if self.trial else None
        counts = {"tried": self._tried, "labels_used": self.labels_used}
        wishes = self._wishes.state_dict() if self._wishes else None
        return {"serving": self.serving.number, "trial": trial, "wishes": wishes, **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the trial, where its candidate is still undecided and faces the same opponent."""
        self.labels_used, saved = state["labels_used"], state["trial"]
        if self._wishes and state["wishes"]:
            self._wishes.load_state_dict(state["wishes"])
        if state["serving"] != self.serving.number:
            return  # a swap came after the checkpoint
        self._tried = state["tried"]
        if saved is not None and saved["number"] in self.service.ledger.undecided():
            self.trial = self._docket.reopen(self.service.ledger.get(saved["number"]), saved)
            self._against = self.serving.number

    def clear_up(self) -> None:
        """Conclude candidates that a crash has left without a trial."""
        running = self.trial.version.number if self.trial else None
        for number in set(self.service.ledger.undecided()) - {running}:
            self.service.ledger.reject(number, "abandoned by a restart", [])
