"""Which candidate is on trial, and which trials wait for records of their kind.

Where worlds take turns faster than a proof is complete, or than labels come, no trial would ever end within its turn.
So it is adjourned, goes on hearing labels of its own records, and is reopened when they are back.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tta_agent.core.errors import GraphError, LedgerError
from tta_agent.core.messages import CandidateProposal
from tta_agent.core.types import GateResult, Label
from tta_agent.drift.detector import DataRegime
from tta_agent.evaluation.candidate import CandidateEvaluation
from tta_agent.rollout.factory import EvaluationFactory
from tta_agent.rollout.ports import ServingView
from tta_agent.serving.deployment import ServedModel
from tta_agent.telemetry.facade import Telemetry

log = logging.getLogger(__name__)
MOST = 3  # trials that wait: each keeps its graphs and the records that may still get a label


class CandidateQueue:
    """One trial at a time, and its share of the error budget.

    Args:
        alpha: in all, between two promotions. The k-th candidate may spend 6 alpha / (pi^2 k^2), which sums to it.
    """

    def __init__(
        self,
        service: ServedModel,
        docket: EvaluationFactory,
        sentry: ServingView,
        telemetry: Telemetry,
        alpha: float,
    ) -> None:
        self._service, self._docket, self._sentry = service, docket, sentry
        self._telemetry, self._alpha = telemetry, alpha
        self.trial: CandidateEvaluation | None = None
        self._adjourned: list[CandidateEvaluation] = []  # the oldest first
        self._tried = 0  # candidates since the last promotion
        self.unsettled = False  # the copy was on the move when it last proposed: the next may come soon

    def open(self, proposal: CandidateProposal) -> None:
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
                        self.end("superseded")
                    return
                version = self._service.ledger.add(graph, self._service.version, dict(proposal.history))
                stage.exported(version.sha256, len(graph))
            self._tried, self.unsettled = self._tried + 1, False
            alpha = 6 * self._alpha / (math.pi * self._tried) ** 2
            self.trial = self._docket.trial(version, session, proposal, len(graph), alpha)
        except (GraphError, LedgerError) as error:
            log.error("no candidate: %s", error)
            return
        parent = self._service.version.number
        self._service.say("candidate", version=version.number, parent=parent, **proposal.history)

    def turn(self) -> None:
        """A trial waits where records of another kind have come; one that has waited goes on with its own."""
        ended, serving = self._sentry.ended(), self._service.version.number
        if self.trial and ended:
            self._adjourn(self.trial, ended)
        elif self.trial and self.trial.against != serving:
            self.end("superseded")  # against what serves here no more
        if self.trial is None:
            self._reopen(serving)

    def _adjourn(self, trial: CandidateEvaluation, ended: DataRegime) -> None:
        self.trial, self.unsettled, trial.domain = None, True, ended
        self._adjourned.append(trial)
        self._service.say("adjourned", version=trial.version.number, labels=trial.pairing.labels)
        self._service.journal.status(trial=None, awaiting=None, waits=None)
        if len(self._adjourned) > MOST:
            self._conclude(self._adjourned.pop(0), "superseded")

    def _reopen(self, serving: int) -> None:
        """The trial whose opponent serves and whose records are back; of several the one with most labels."""
        back = [t for t in self._adjourned if t.against == serving and self._sentry.fits(t.domain)]
        trial = max(back, key=lambda t: t.pairing.labels, default=None)
        if trial is None:
            return
        self._adjourned.remove(trial)
        self.trial, self.unsettled = trial, False
        self._service.say("reopened", version=trial.version.number, labels=trial.pairing.labels)

    def label(self, label: Label) -> bool:
        """Whether a label counts in a trial that waits."""
        return any([trial.label(label) for trial in self._adjourned])

    def end(self, outcome: str, findings: Sequence[GateResult] = ()) -> None:
        """End the trial, if there is one."""
        if self.trial is not None:
            trial, self.trial, self.unsettled = self.trial, None, outcome == "superseded"
            if not (trial.decided or trial.domain):
                self._tried -= 1  # it cannot have erred; one that has waited may be of another budget
            self._conclude(trial, outcome, findings)

    def end_all(self, outcome: str) -> None:
        """And those that wait."""
        self.end(outcome)
        while self._adjourned:
            self._conclude(self._adjourned.pop(), outcome)

    def promoted(self) -> None:
        """The candidate serves: a new error budget."""
        self.trial, self._tried = None, 0
        self._service.journal.status(trial=None, awaiting=None, waits=None)

    def _conclude(
        self, trial: CandidateEvaluation, outcome: str, findings: Sequence[GateResult] = ()
    ) -> None:
        number, service = trial.version.number, self._service
        service.backlog.write(lambda: service.ledger.reject(number, outcome, findings))
        service.say("verdict", version=number, outcome=outcome, findings=[asdict(f) for f in findings])
        service.journal.status(trial=None, verdict={"version": number, "outcome": outcome})

    def state_dict(self) -> dict[str, Any]:
        """The trials and their budget."""
        trial = self.trial.state_dict() if self.trial else None
        return {"tried": self._tried, "trial": trial, "adjourned": [t.state_dict() for t in self._adjourned]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the trials whose candidates are still undecided."""
        self._tried = state["tried"]
        running, *waiting = (self._restore(saved) for saved in (state["trial"], *state["adjourned"]))
        self.trial, self._adjourned = running, [trial for trial in waiting if trial]

    def _restore(self, saved: Mapping[str, Any] | None) -> CandidateEvaluation | None:
        if saved is None or saved["number"] not in self._service.ledger.undecided():
            return None
        return self._docket.reopen(self._service.ledger.get(saved["number"]), saved)

    def clear_up(self) -> None:
        """Conclude candidates that a crash has left without a trial."""
        known = {trial.version.number for trial in (self.trial, *self._adjourned) if trial}
        for number in set(self._service.ledger.undecided()) - known:
            self._service.ledger.reject(number, "abandoned by a restart", [])
