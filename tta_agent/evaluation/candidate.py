"""One candidate under evaluation: its graph and the serving one on the same records, which it has not learnt from.

The candidate is pinned, so every record that is newer is fresh for it, those among them that teach the copy further:
prequential evaluation (Gama, Sebastião, Rodrigues, Machine Learning 90, 2013). Records of entities that it has learnt
from are left out: it may know these entities, and others come later.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tta_agent.core import task
from tta_agent.core.drift import Regime
from tta_agent.core.evidence import AnchorResult, Evidence, GainEstimate
from tta_agent.core.types import Answer, Array, Label, Positions, Version
from tta_agent.evaluation.decision import Decision, GateSet
from tta_agent.evaluation.facts import CandidateFacts
from tta_agent.evaluation.paired import BatchPredictions, PairedEvaluation, PairedRecord
from tta_agent.evaluation.phase import NEXT, Phase
from tta_agent.evaluation.taught import TaughtEntities
from tta_agent.models.ort_sessions import Session, run

RECENT = 64  # records on which a newer snapshot is compared with the candidate
STEP = 16  # new records that make a new judgement worth its while
LEADING = 4  # times the patience for a candidate that wins more than chance lets it, or has no label yet
FAR = 2.0  # at 1, one in two candidates of a steady demo was given up within 25 s, before small gains could show

Estimate = Callable[[Array, Array, Array, AnchorResult | None, Mapping[str, float]], GainEstimate]


class CandidateEvaluation:
    """State machine around the paired evaluation of a pinned candidate; `phase.py` draws it.

    Args:
        version: the candidate; it does not change while it is evaluated.
        opponent: number of the version that it is compared with.
        graphs: sessions of `serving` and `candidate`, and of `source` and `proven` for the gates that look at them.
        trained_until: offsets after the last record that the candidate has learnt from; older records do not count.
        facts: what is fixed.
        taught: entities that have taught the copy.
        taught_before: how many records had taught it when the candidate was made.
        window: records that label-free gates look back on.
        bucket_s: one label counts for each entity and stretch of this length.
        estimate: gain by rehearsals, asked after `every`, 2, 4, 8 ... times as many records about the latest `every`.
        carrier: trace context of the proposal.

    Attributes:
        phase: where it stands; only the methods below change it.
        decision: of the gates at the latest judgement, or None.
        held_by: what keeps a proven candidate from serving, for people, or None.
        regime: of its records, as long as it has been suspended once.
        requested: labels that were requested for its disagreements; the caller counts them.
    """

    def __init__(
        self,
        version: Version,
        opponent: int,
        graphs: Mapping[str, Session],
        trained_until: Positions,
        facts: CandidateFacts,
        *,
        taught: TaughtEntities | None = None,
        taught_before: int = 0,
        window: int = 2000,
        bucket_s: float = 0.0,
        estimate: Estimate | None = None,
        every: int = 500,
        carrier: str | None = None,
    ) -> None:
        self.version, self.opponent, self.facts, self.carrier = version, opponent, facts, carrier
        self._taught, self._taught_before = taught or TaughtEntities(), taught_before
        self.pairs = PairedEvaluation(graphs, trained_until, window, bucket_s, self._has_learnt_from)
        self.phase = Phase.RUNNING
        self.decision: Decision | None = None
        self.held_by: str | None = None
        self.regime: Regime | None = None
        self.requested = 0
        self._recent: deque[tuple[Array, Answer, Answer]] = deque(maxlen=RECENT)
        self._estimate, self._every = estimate, every
        self._expected: GainEstimate | None = None
        self._looks = 0
        self._labelled_at = 0  # records at the first label
        self._judged_at = (0, 0)  # records and labels at the latest judgement

    @property
    def session(self) -> Session:
        """The candidate's session."""
        return self.pairs.graphs["candidate"]

    @property
    def decided(self) -> int:
        """Labels by which one of both was right and the other wrong."""
        return self.pairs.wins + self.pairs.losses

    @property
    def provisional(self) -> bool:
        """Whether it was made of few records, no label has come for it, and nobody has to approve it."""
        return self.facts.early and not self.pairs.labels and self.phase is not Phase.PROVEN

    # evidence

    def _has_learnt_from(self, entity: str) -> bool:
        return self._taught.among_first(entity, self._taught_before)

    def on_records(self, batch: BatchPredictions, *, held_out: bool = False) -> list[PairedRecord]:
        """Evaluate all graphs on the records that are new; each with its answer by serving and by the candidate.

        Args:
            held_out: nothing has been learnt from any of them, so that those from before its birth count, too.
        """
        fresh = self.pairs.on_records(batch, held_out=held_out)
        self._recent.extend((record.x, serving, candidate) for record, serving, candidate in fresh)
        if self._estimate and self.pairs.records >= self._every * 2**self._looks:
            self._looks += 1
            self._expected = self._look(self._estimate)
        return fresh

    def _look(self, estimate: Estimate) -> GainEstimate:
        roles = ("serving", "candidate", "source")
        serving, candidate, source = (self.pairs.window(role)[-self._every :] for role in roles)
        return estimate(serving, candidate, source, self.facts.anchor, self.facts.moved)

    def on_label(self, label: Label) -> bool:
        """Count a late label; whether it counts. In every phase: labels speak of records, not of the present."""
        counts = self.pairs.on_label(label) is not None
        if counts and self.pairs.labels == 1:
            self._labelled_at = self.pairs.records
        return counts

    def evidence(self) -> Evidence:
        """Evidence for the gates, as of now."""
        pairs, facts = self.pairs, self.facts
        return Evidence(
            pairs.window("serving"), pairs.window("candidate"), pairs.wins, pairs.losses, pairs.labels,
            facts.alpha, facts.parity, facts.size_ratio, facts.latency_ratio,
            judged=tuple(pairs.judged), source=pairs.window("source"), proven=pairs.window("proven"),
            tenants=pairs.tenants, anchor=facts.anchor, expected=self._expected,
            rehearsed_window=self._every if self._estimate else 0, health=facts.health, null=facts.null,
        )  # fmt: skip

    # transitions

    def judge(self, gates: GateSet, *, labels_come: bool = False) -> Decision | None:
        """Ask the gates, where there is news; running or proven by their decision. None: nothing new.

        Args:
            labels_come: the stream has labels.
        """
        if not self._has_news():
            return None
        self._judged_at = (self.pairs.records, self.pairs.labels)
        self.decision, self.held_by = gates.decide(self.evidence(), labels_come=labels_come), None
        self._to(Phase.PROVEN if self.decision.outcome == "proven" else Phase.RUNNING)
        return self.decision

    def _has_news(self) -> bool:
        """Enough new evidence; any at all where a proven candidate is held back."""
        records, labels = self.pairs.records, self.pairs.labels
        if self.phase is Phase.PROVEN:
            return (records, labels) != self._judged_at
        return labels > self._judged_at[1] or records - self._judged_at[0] >= STEP

    def hold(self, reason: str) -> None:
        """Keep a proven candidate from serving, for this reason."""
        self._to(Phase.PROVEN)
        self.held_by = reason

    def suspend(self, regime: Regime) -> None:
        """Wait for records of this regime, which is the candidate's own."""
        self._to(Phase.SUSPENDED)
        self.regime = regime

    def resume(self) -> None:
        """Go on where it was suspended."""
        proven = self.decision is not None and self.decision.outcome == "proven"
        self._to(Phase.PROVEN if proven else Phase.RUNNING)

    def end(self) -> None:
        """End the evaluation: nothing counts any more."""
        self._to(Phase.ENDED)

    def _to(self, phase: Phase) -> None:
        if phase not in NEXT[self.phase]:
            raise ValueError(f"version {self.version.number}: no way from {self.phase} to {phase}")
        self.phase = phase

    # questions

    def overdue(self, patience: int, *, labels_come: bool = False) -> bool:
        """Whether it has had its time: so many records, four times as many while it leads by a standard error.

        Args:
            labels_come: the time begins with its first label; for that it waits four times as long, too.
        """
        leads = self.pairs.wins - self.pairs.losses > math.sqrt(self.decided)
        waits = labels_come and not self.pairs.labels
        since = self.pairs.records - (self._labelled_at if labels_come else 0)
        return since >= patience * (LEADING if leads or waits else 1)

    def outdated_by(self, newer: Session) -> bool:
        """Whether `newer` stands twice as far from this candidate as this stands from serving, or further.

        Distance is the share of the latest records that are answered otherwise. A copy that only wanders about a
        good place stays nearer, and its candidate keeps the evidence that it has gathered.
        """
        if len(self._recent) < RECENT // 2:
            return False
        x, serving, candidate = zip(*self._recent, strict=True)
        moved = task.disagreements(task.answers(run(newer, np.stack(x))), candidate)
        return moved > FAR * task.disagreements(candidate, serving)

    # checkpoint

    def state_dict(self) -> dict[str, Any]:
        """Everything but sessions and anchor: those are made again from the graphs."""
        facts = replace(self.facts, anchor=None, null={})
        return {
            "number": self.version.number,
            "opponent": self.opponent,
            "regime": None if self.regime is None else self.regime.blocks.tolist(),
            "facts": {name: getattr(facts, name) for name in CandidateFacts.__dataclass_fields__},
            "pairs": self.pairs.state_dict(),
            "looks": self._looks,
            "taught_before": self._taught_before,
            "requested": self.requested,
            "labelled_at": self._labelled_at,
        }

    def load_state_dict(self, state: Mapping[str, Any], regime: Regime | None) -> None:
        """Continue from `state_dict()` of the same candidate; with a regime it is suspended or has been."""
        self.pairs.load_state_dict(state["pairs"])
        self._looks, self.regime = state["looks"], regime
        self._taught_before, self._labelled_at, self.requested = (
            state[name] for name in ("taught_before", "labelled_at", "requested")
        )
