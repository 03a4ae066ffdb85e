"""From a proposal to a trial, and from a swap to a watch: what has to be known before the first record."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tta_agent.core.evidence import AnchorResult
from tta_agent.core.messages import CandidateProposal
from tta_agent.core.protocols import Gate
from tta_agent.core.types import Array, Version
from tta_agent.evaluation.anchor_set import AnchorSet
from tta_agent.evaluation.candidate import CandidateEvaluation, CandidateFacts
from tta_agent.models.onnx_export import GraphTemplate, answers, parity
from tta_agent.models.ort_sessions import Session, run
from tta_agent.rollout.bake import BakeMonitor
from tta_agent.rollout.ports import Rehearsal
from tta_agent.serving.deployment import ServedModel

TIMED = 15  # runs of each graph for the ratio of their latencies
AGAIN, SLOWER = 4, 1.1  # so often in all, while the candidate looks slower than this


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """Of trials and watches; `tta_agent.settings.rollout_groups` says what each means."""

    window: int = 2000
    bucket_s: float = 0.0
    watch_alpha: float = 0.05
    bake_records: int = 1000
    watch_window: int = 100
    trips: int = 2


class EvaluationFactory:
    """Prepares cases.

    Args:
        vetoes: gates that a version in service is asked again.
        anchor: labelled images that every candidate answers, or None.
        rehearsal: of this model and adapter, or None.
        null: thresholds by A/A runs.
    """

    def __init__(
        self,
        master: GraphTemplate,
        service: ServedModel,
        terms: EvaluationSettings,
        *,
        vetoes: tuple[Gate, ...] = (),
        anchor: AnchorSet | None = None,
        rehearsal: Rehearsal | None = None,
        null: Mapping[str, float] | None = None,
    ) -> None:
        self._master, self._service, self._terms, self._vetoes = master, service, terms, vetoes
        self._anchor, self._rehearsal, self._null = anchor, rehearsal, null or {}
        self._known: dict[int, Mapping[str, Array]] = {}  # answers to the anchor set, by version

    def compose(self, proposal: CandidateProposal) -> tuple[bytes, Session]:
        """The candidate's graph and its session.

        Raises:
            GraphError: it cannot be made or loaded.
        """
        graph = self._master.compose(proposal.module)
        return graph, self._service.open(graph)

    def trial(
        self, version: Version, session: Session, proposal: CandidateProposal, size: int, alpha: float
    ) -> CandidateEvaluation:
        """The trial of a version that has just been made of a proposal."""
        fixed = self._master.fixed
        case = CandidateFacts(
            alpha,
            parity(answers(proposal.module, fixed), run(session, fixed)),
            size / self._service.size,
            _latency_ratio(session, self._service.session, fixed),
            self._rehearsal.moved(proposal.module) if self._rehearsal else {},
            proposal.history.get("health", {}),
            self._compare(self._service.version, self._service.session, version, session),
            self._null,
        )
        trial = self._open(version, session, dict(proposal.born), case, self._service.version)
        trial.carrier = proposal.carrier
        return trial

    def reopen(self, version: Version, saved: Mapping[str, Any]) -> CandidateEvaluation:
        """The trial as a checkpoint has kept it."""
        against = self._service.ledger.get(saved["against"])
        session, other = (self._service.session_of(one) for one in (version, against))
        anchor = self._compare(against, other, version, session)
        case = CandidateFacts(**{**saved["case"], "anchor": anchor, "null": self._null})
        trial = self._open(version, session, saved["pairing"]["born"], case, against)
        trial.load_state_dict(saved)
        return trial

    def _open(
        self, version: Version, session: Session, born: Any, case: CandidateFacts, against: Version
    ) -> CandidateEvaluation:
        service, terms = self._service, self._terms
        proven = service.ledger.last_proven()
        graphs = {
            "serving": service.session_of(against),
            "candidate": session,
            "source": service.session_of(service.source),
            "proven": service.session_of(proven),
        }
        service.keep_only([proven])
        rehearsal = self._rehearsal
        return CandidateEvaluation(
            version, against.number, graphs, born, case, window=terms.window, bucket_s=terms.bucket_s,
            expect=rehearsal.expect if rehearsal else None, every=rehearsal.window if rehearsal else terms.window,
        )  # fmt: skip

    def watch(self, version: Version, baseline: Version, expires_s: float | None = None) -> BakeMonitor:
        """The watch over a version that has come into service."""
        service, terms = self._service, self._terms
        service.keep_only([baseline])
        graphs = {
            "serving": service.session_of(baseline),
            "candidate": service.session_of(version),
            "source": service.session_of(service.source),
        }
        anchor = self._compare(baseline, graphs["serving"], version, graphs["candidate"])
        return BakeMonitor(
            version, baseline, graphs, self._vetoes, alpha=terms.watch_alpha, bake_records=terms.bake_records,
            window=terms.watch_window, trips=terms.trips, bucket_s=terms.bucket_s, expires_s=expires_s,
            anchor=anchor, null=self._null,
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
    """Seconds of one graph over the other's, in turns on the same inputs.

    The quickest run of each: what else the machine does only ever adds, and a sidecar's machine is busy. A candidate
    that looks slower gets more turns: with 15, one in service on two busy cores was refused at 1.44 of the same time.
    """
    quickest = {candidate: math.inf, serving: math.inf}
    for _ in range(AGAIN):
        for session in (candidate, serving) * TIMED:
            started_s = time.perf_counter()
            run(session, x)
            quickest[session] = min(quickest[session], time.perf_counter() - started_s)
        if quickest[candidate] <= SLOWER * quickest[serving]:
            break
    return quickest[candidate] / quickest[serving]
