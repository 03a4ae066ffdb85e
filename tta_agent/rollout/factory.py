"""Evaluations made of proposals, and bakes made of swaps: everything that is needed before the first record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tta_agent.core.drift import Regime
from tta_agent.core.evidence import AnchorResult
from tta_agent.core.messages import CandidateProposal
from tta_agent.core.protocols import Gate
from tta_agent.core.types import Array, Positions, Version
from tta_agent.evaluation.anchor_set import AnchorSet
from tta_agent.evaluation.candidate import CandidateEvaluation
from tta_agent.evaluation.facts import CandidateFacts
from tta_agent.evaluation.taught import TaughtEntities
from tta_agent.models.onnx_export import GraphTemplate, answers, parity
from tta_agent.models.ort_sessions import Session, run
from tta_agent.models.weight_delta import same_structure
from tta_agent.rollout.bake import BakeMonitor
from tta_agent.rollout.ports import Rehearsal
from tta_agent.serving.deployment import ServedModel

TIMED = 15  # runs of each graph for the ratio of their latencies
AGAIN, SLOWER = 4, 1.1  # so often in all, while the candidate looks slower than this


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """Numbers of evaluations and bakes; `tta_agent.settings.rollout_groups` describes each."""

    window: int = 2000
    bucket_s: float = 0.0
    bake_alpha: float = 0.05
    bake_records: int = 1000
    bake_window: int = 100
    trips: int = 2


class EvaluationFactory:
    """Prepares evaluations and bakes.

    Args:
        vetoes: gates that a version in service is asked again.
        anchor: labelled images that every candidate answers, or None.
        rehearsal: of this model and adapter, or None.
        null: thresholds by A/A runs.
        timed: whether graphs of another structure than what serves are timed; never in a replay, which would decide
            otherwise on a busier machine.

    Attributes:
        taught: entities that have taught the copy.
    """

    def __init__(
        self,
        template: GraphTemplate,
        served: ServedModel,
        settings: EvaluationSettings,
        *,
        vetoes: tuple[Gate, ...] = (),
        anchor: AnchorSet | None = None,
        rehearsal: Rehearsal | None = None,
        null: Mapping[str, float] | None = None,
        timed: bool = True,
    ) -> None:
        self._timed = timed
        self._template, self._served, self._settings, self._vetoes = template, served, settings, vetoes
        self._anchor, self._rehearsal, self._null = anchor, rehearsal, null or {}
        self.taught = TaughtEntities()
        self._known: dict[int, Mapping[str, Array]] = {}  # answers to the anchor set, by version

    def compose(self, proposal: CandidateProposal) -> tuple[bytes, Session]:
        """The candidate's graph and its session.

        Raises:
            GraphError: it cannot be made or loaded.
        """
        graph = self._template.compose(proposal.module)
        return graph, self._served.open(graph)

    def evaluation(
        self, version: Version, session: Session, proposal: CandidateProposal, size: int, alpha: float
    ) -> CandidateEvaluation:
        """Evaluation of a version that has just been made of a proposal.

        Args:
            size: bytes of its graph.
            alpha: share of the error budget that it may spend.
        """
        fixed, opponent = self._template.fixed, self._served.version
        facts = CandidateFacts(
            alpha,
            parity(answers(proposal.module, fixed), run(session, fixed)),
            size / self._served.size,
            self._latency(version, session),
            self._rehearsal.moved(proposal.module) if self._rehearsal else {},
            proposal.history.get("health", {}),
            self._compare(opponent, self._served.session, version, session),
            self._null,
            proposal.early,
        )
        return self._open(version, session, proposal.trained_until, facts, opponent, proposal.carrier)

    def _latency(self, version: Version, session: Session) -> float:
        """Seconds over those of what serves, at least; 1 for the same graph with other tensors: it takes as long."""
        pair = (one.path.read_bytes() for one in (version, self._served.version))
        if not self._timed or same_structure(*pair):
            return 1.0
        return _latency_ratio(session, self._served.session, self._template.fixed)

    def restore(
        self, version: Version, saved: Mapping[str, Any], regime: Regime | None
    ) -> CandidateEvaluation:
        """Evaluation as a checkpoint has kept it."""
        opponent = self._served.registry.get(saved["opponent"])
        session, other = (self._served.session_of(one) for one in (version, opponent))
        anchor = self._compare(opponent, other, version, session)
        facts = CandidateFacts(**{**saved["facts"], "anchor": anchor, "null": self._null})
        evaluation = self._open(version, session, saved["pairs"]["trained_until"], facts, opponent)
        evaluation.load_state_dict(saved, regime)
        return evaluation

    def _open(
        self, version: Version, session: Session, trained_until: Positions, facts: CandidateFacts,
        opponent: Version, carrier: str | None = None,
    ) -> CandidateEvaluation:  # fmt: skip
        served, settings, rehearsal = self._served, self._settings, self._rehearsal
        proven = served.registry.last_proven()
        graphs = {
            "serving": served.session_of(opponent),
            "candidate": session,
            "source": served.session_of(served.source),
            "proven": served.session_of(proven),
        }
        served.keep_only([proven])
        served.expected(version, session)  # now, so that a swap does not wait for it
        return CandidateEvaluation(
            version, opponent.number, graphs, trained_until, facts, taught=self.taught,
            taught_before=self.taught.count, window=settings.window,
            bucket_s=settings.bucket_s, estimate=rehearsal.expect if rehearsal else None,
            every=rehearsal.window if rehearsal else settings.window, carrier=carrier,
        )  # fmt: skip

    def bake_monitor(
        self, version: Version, baseline: Version, expires_s: float | None = None
    ) -> BakeMonitor:
        """Monitor of a version that has come into service; `baseline` is its rollback target."""
        served, settings = self._served, self._settings
        served.keep_only([baseline])
        graphs = {
            "serving": served.session_of(baseline),
            "candidate": served.session_of(version),
            "source": served.session_of(served.source),
        }
        anchor = self._compare(baseline, graphs["serving"], version, graphs["candidate"])
        findings = served.registry.verdict(version.number).get("findings", [])
        return BakeMonitor(
            version, baseline, graphs, self._vetoes, alpha=settings.bake_alpha,
            bake_records=settings.bake_records, window=settings.bake_window, trips=settings.trips,
            bucket_s=settings.bucket_s, expires_s=expires_s, anchor=anchor, null=self._null,
            outranked=[f["gate"] for f in findings if f["verdict"] == "fail"],
        )  # fmt: skip

    def _compare(self, one: Version, first: Session, other: Version, second: Session) -> AnchorResult | None:
        if self._anchor is None:
            return None
        pair = [self._answers(version, session) for version, session in ((one, first), (other, second))]
        self._known = {one.number: pair[0], other.number: pair[1]}
        return self._anchor.compare(*pair)

    def _answers(self, version: Version, session: Session) -> Mapping[str, Array]:
        assert self._anchor is not None
        return self._known.get(version.number) or self._anchor.answers(lambda x: run(session, x))


def _latency_ratio(candidate: Session, serving: Session, x: Array) -> float:
    """Seconds of one graph over the other's, in turns on the same inputs, at least.

    The quickest run of each: what else the machine does only ever adds, and a sidecar's machine is busy. A candidate
    that looks slower gets more turns: with 15, one in service on two busy cores was refused at 1.44 of the same time.
    The bound on the noise is by how much serving differs from itself in every second turn.
    """
    seconds: dict[Session, list[float]] = {candidate: [], serving: []}
    for _ in range(AGAIN):
        for session in (candidate, serving) * TIMED:
            started_s = time.perf_counter()
            run(session, x)
            seconds[session].append(time.perf_counter() - started_s)
        if min(seconds[candidate]) <= SLOWER * min(seconds[serving]):
            break
    halves = [min(seconds[serving][half::2]) for half in (0, 1)]
    return min(seconds[candidate]) / max(halves)
