"""The candidate under evaluation, and those whose evaluation is suspended.

Where regimes take turns faster than a proof is complete, or than labels come, no evaluation would ever end within its
turn. So it is suspended, goes on counting labels of its own records, and continues when they are back.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tta_agent.core.drift import Drift, Regime
from tta_agent.core.errors import GraphError, RegistryError
from tta_agent.core.events import Event
from tta_agent.core.messages import CandidateProposal
from tta_agent.core.types import GateResult, Label
from tta_agent.evaluation.candidate import CandidateEvaluation
from tta_agent.evaluation.paired import BatchPredictions, PairedRecord
from tta_agent.evaluation.recent import RecentRecords
from tta_agent.evaluation.taught import TaughtEntities
from tta_agent.rollout.factory import EvaluationFactory
from tta_agent.rollout.regimes import RegimeFollower
from tta_agent.rollout.spending import AlphaSpending
from tta_agent.serving.deployment import ServedModel
from tta_agent.telemetry.facade import Telemetry

log = logging.getLogger(__name__)
MOST = 3  # suspended evaluations: each keeps its graphs and the records that may still get a label


class CandidateQueue:
    """One running evaluation, the suspended ones, and their error budget.

    Args:
        recent: held-out records that every new candidate answers first.
        alpha: bound on the probability of a false promotion between two promotions, for each regime.

    Attributes:
        running: the evaluation that runs, or None.
        suspended: those that wait for records of their regime, the oldest first.
        unsettled: the regime is new, or the copy was on the move when it last proposed: the next candidate may come
            soon.
        labels_used: labels that counted for a candidate, each once.
    """

    def __init__(
        self,
        served: ServedModel,
        factory: EvaluationFactory,
        regimes: RegimeFollower,
        telemetry: Telemetry,
        alpha: float,
        recent: RecentRecords | None = None,
    ) -> None:
        self.recent = recent or RecentRecords(0)
        self._served, self._factory, self._regimes = served, factory, regimes
        self._telemetry, self._spending = telemetry, AlphaSpending(alpha)
        self.running: CandidateEvaluation | None = None
        self.suspended: list[CandidateEvaluation] = []
        self.unsettled = True
        self.labels_used = 0

    def begin(
        self, proposal: CandidateProposal, *, replaces: bool = False
    ) -> tuple[BatchPredictions, list[PairedRecord]]:
        """Compose the candidate's graph, pin it in the registry, and begin its evaluation.

        While another one runs, a proposal only shows whether that candidate is outdated: it is when the copy has
        moved much further from it than it stands from what serves (a shift came meanwhile). Then that evaluation
        ends, and the next proposal is taken, which comes as soon as the copy has had time to settle. Otherwise the
        candidate stays pinned.

        Args:
            replaces: a provisional candidate makes room for this one.

        Returns:
            Recent held-out records that a new candidate has answered, each with its answer by both graphs.
        """
        earlier = BatchPredictions(self.recent.records)
        try:
            if self._begin(proposal, replaces) and self.running:
                rows = self.running.on_records(earlier, held_out=True)
                self.on_labels(self.recent.labels)
                return earlier, rows
        except (GraphError, RegistryError) as error:
            log.error("no candidate: %s", error)
        return earlier, []

    def _begin(self, proposal: CandidateProposal, replaces: bool) -> bool:
        with self._telemetry.export(proposal.carrier) as stage:
            graph, session = self._factory.compose(proposal)
            if self.running and not (replaces and self.running.provisional):
                if self.running.outdated_by(session):
                    self.end("superseded")
                return False
            version = self._served.registry.add(graph, self._served.version, dict(proposal.history))
            stage.exported(version.sha256, version.size)
        requested = self._make_room()
        self.unsettled = False
        alpha = self._spending.next(self._regimes.regime().blocks)
        self.running = self._factory.evaluation(version, session, proposal, version.size, alpha)
        self.running.requested = requested
        self._served.say(
            Event.CANDIDATE, version=version.number, parent=self._served.version.number, **proposal.history
        )
        return True

    def _make_room(self) -> int:
        """End the candidate before; how many labels were requested for it, which count for the next one as well."""
        requested = self.running.requested if self.running else 0
        self.end("superseded")
        return requested

    @property
    def taught(self) -> TaughtEntities:
        """Entities that have taught the copy."""
        return self._factory.taught

    def on_drift(self, drift: Drift) -> None:
        """Suspend the running evaluation at a change of regime; continue one that waited for this regime."""
        serving = self._served.version.number
        if drift.ended:
            self.recent.clear()
            self._spending.left(drift.ended)
            self.unsettled = True
        if self.running and drift.ended:
            self._suspend(self.running, drift.ended)
        elif self.running and self.running.opponent != serving:
            self.end("superseded")  # its opponent does not serve here any more
        if self.running is None:
            self._continue(serving, drift)

    def _suspend(self, evaluation: CandidateEvaluation, regime: Regime) -> None:
        evaluation.suspend(regime)
        self.running, self.unsettled = None, True
        self.suspended.append(evaluation)
        self._tell(Event.SUSPENDED, evaluation)
        self._served.journal.status(trial=None, awaiting=None, waits=None)
        if len(self.suspended) > MOST:
            self._conclude(self.suspended.pop(0), "superseded")

    def _continue(self, serving: int, drift: Drift) -> None:
        """Resume an evaluation whose opponent serves and whose regime is back; the one with most labels."""
        back = [
            e for e in self.suspended if e.opponent == serving and e.regime and e.regime.fits(drift.recent)
        ]
        evaluation = max(back, key=lambda e: e.pairs.labels, default=None)
        if evaluation is None:
            return
        evaluation.resume()
        self.suspended.remove(evaluation)
        self.running, self.unsettled = evaluation, False
        self._tell(Event.CONTINUED, evaluation)

    def _tell(self, event: Event, evaluation: CandidateEvaluation) -> None:
        self._served.say(event, version=evaluation.version.number, labels=evaluation.pairs.labels)

    def on_labels(self, labels: Sequence[Label]) -> None:
        """Late labels, for every evaluation."""
        known = (*self.suspended, *([self.running] if self.running else []))
        used = [label for label in labels if any([evaluation.on_label(label) for evaluation in known])]
        self.labels_used += self.recent.first_uses(used)

    def end(self, outcome: str, results: Sequence[GateResult] = ()) -> None:
        """End the evaluation that runs, if there is one."""
        if self.running is not None:
            evaluation, self.running, self.unsettled = self.running, None, outcome == "superseded"
            if not (evaluation.decided or evaluation.regime):
                self._spending.give_back()  # it cannot have erred; one that has waited may be of another budget
            self._conclude(evaluation, outcome, results)

    def end_all(self, outcome: str) -> None:
        """And the suspended ones."""
        self.end(outcome)
        while self.suspended:
            self._conclude(self.suspended.pop(), outcome)

    def promoted(self) -> None:
        """The candidate serves: a new error budget."""
        if self.running:
            self.running.end()
        self.running = None
        self._spending.renew()
        self._served.journal.status(trial=None, awaiting=None, waits=None)

    def _conclude(
        self, evaluation: CandidateEvaluation, outcome: str, results: Sequence[GateResult] = ()
    ) -> None:
        evaluation.end()
        number, served = evaluation.version.number, self._served
        served.backlog.write(lambda: served.registry.reject(number, outcome, results))
        served.say(
            Event.VERDICT, version=number, outcome=outcome, findings=[asdict(result) for result in results]
        )
        served.journal.status(trial=None, verdict={"version": number, "outcome": outcome})

    def state_dict(self) -> dict[str, Any]:
        """The evaluations and their budget."""
        running = self.running.state_dict() if self.running else None
        suspended = [evaluation.state_dict() for evaluation in self.suspended]
        recent = self.recent.state_dict()
        counts = {**self._spending.state_dict(), "unsettled": self.unsettled}
        return {**counts, "running": running, "suspended": suspended, "recent": recent}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the evaluations whose candidates are still undecided."""
        self._spending.load_state_dict(state, self._regimes.regime)
        self.unsettled = state["unsettled"]
        self.recent.load_state_dict(state["recent"])
        self.running = self._restore(state["running"])
        self.suspended = [one for saved in state["suspended"] if (one := self._restore(saved))]
        for evaluation in self.suspended:
            if evaluation.regime is not None:
                evaluation.suspend(evaluation.regime)

    def _restore(self, saved: Mapping[str, Any] | None) -> CandidateEvaluation | None:
        if saved is None or saved["number"] not in self._served.registry.undecided():
            return None
        blocks = saved["regime"]
        regime = None if blocks is None else self._regimes.regime(blocks)
        return self._factory.restore(self._served.registry.get(saved["number"]), saved, regime)

    def clear_up(self) -> None:
        """Conclude candidates that a crash has left without an evaluation."""
        known = {one.version.number for one in (self.running, *self.suspended) if one}
        for number in set(self._served.registry.undecided()) - known:
            self._served.registry.reject(number, "abandoned by a restart", [])
