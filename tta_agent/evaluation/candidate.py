"""One candidate under test: its graph and the serving one on the same held-out records, newer than it is."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tta_agent.core.evidence import AnchorResult, Evidence, GainEstimate
from tta_agent.core.types import Array, Label, Positions, Record, Version
from tta_agent.drift.detector import DataRegime
from tta_agent.evaluation.decision import Decision
from tta_agent.evaluation.paired import BatchPredictions, PairedEvaluation
from tta_agent.models.ort_sessions import Session, run

RECENT = 64  # records on which a newer snapshot is compared with the candidate
LEADING = 4  # times the patience for a candidate that wins more than chance lets it
FAR = 2.0  # at 1, one in two candidates of a steady demo was given up within 25 s, before small gains could show

Expect = Callable[[Array, Array, Array, AnchorResult | None, Mapping[str, float]], GainEstimate]


@dataclass(frozen=True, slots=True)
class CandidateFacts:
    """What is known of a candidate before the first record, and does not change.

    Attributes:
        alpha: share of the error budget that it may spend.
        parity: agreement of graph and torch on fixed inputs.
        size_ratio, latency_ratio: bytes and seconds over those of serving.
        moved: how far its tensors stand from the source's, by name of the distance.
        health: of the optimiser.
        anchor: answers on the labelled anchor set.
        null: thresholds of gates by A/A runs.
    """

    alpha: float
    parity: tuple[float, float] = (1.0, 0.0)
    size_ratio: float = 1.0
    latency_ratio: float = 1.0
    moved: Mapping[str, float] = field(default_factory=dict)
    health: Mapping[str, float] = field(default_factory=dict)
    anchor: AnchorResult | None = None
    null: Mapping[str, float] = field(default_factory=dict)


class CandidateEvaluation:
    """Paired evaluation of a pinned candidate.

    Args:
        version: the candidate; it does not change while it is tested.
        against: number of the version that it is tried against.
        graphs: sessions of `serving` and `candidate`, and of `source` and `proven` for the gates that look at them.
        born: offsets after the last record that the candidate has learnt from; older records do not count.
        case: what is fixed.
        window: held-out records that label-free gates look back on.
        bucket_s: one label counts for each entity and stretch of this length.
        expect: what rehearsals say, asked once for each `every` new records, so that looks share no record.
    """

    def __init__(
        self,
        version: Version,
        against: int,
        graphs: Mapping[str, Session],
        born: Positions,
        case: CandidateFacts,
        *,
        window: int = 2000,
        bucket_s: float = 0.0,
        expect: Expect | None = None,
        every: int = 500,
    ) -> None:
        self.version, self.against, self.case = version, against, case
        self.domain = DataRegime()  # of its records; empty as long as it has never waited for them
        self.pairing = PairedEvaluation(graphs, born, window, bucket_s)
        self._recent: deque[tuple[Array, int, int]] = deque(maxlen=RECENT)
        self._expect, self._every = expect, every
        self._expected: GainEstimate | None = None
        self._looks = 0
        self.passed = 0  # positive judgements in a row
        self.judged_at = (0, 0)  # records and labels at the latest judgement
        self.ruling: Decision | None = None  # which was this
        self.waits: str | None = None  # what a proven candidate waits for
        self.carrier: str | None = None  # trace context of the proposal

    @property
    def candidate(self) -> Session:
        """The candidate's session."""
        return self.pairing.graphs["candidate"]

    @property
    def decided(self) -> int:
        """Labels by which one of both was right and the other wrong."""
        return self.pairing.wins + self.pairing.losses

    def observe(self, asked: BatchPredictions) -> list[tuple[Record, int, int]]:
        """Evaluate all graphs on the records that are new; each with the class by serving and by the candidate."""
        fresh = self.pairing.observe(asked)
        self._recent.extend((record.x, serving, candidate) for record, serving, candidate in fresh)
        if self._expect and self.pairing.records // self._every > self._looks:
            self._looks = self.pairing.records // self._every
            self._expected = self._look(self._expect)
        return fresh

    def _look(self, expect: Expect) -> GainEstimate:
        serving, candidate, source = (
            self.pairing.window(role)[-self._every :] for role in ("serving", "candidate", "source")
        )
        return expect(serving, candidate, source, self.case.anchor, self.case.moved)

    def label(self, label: Label) -> bool:
        """Whether the label counts."""
        return self.pairing.label(label) is not None

    def overdue(self, patience: int) -> bool:
        """Whether it has had its time: so many records, four times as many while it leads by a standard error."""
        wins, losses = self.pairing.wins, self.pairing.losses
        leads = wins - losses > math.sqrt(wins + losses)
        return self.pairing.records >= patience * (LEADING if leads else 1)

    def outdated_by(self, newer: Session) -> bool:
        """Whether `newer` stands twice as far from this candidate as this stands from serving, or further.

        Distance is the share of the latest records that are answered otherwise. A copy that only wanders about a
        good place stays nearer, and its candidate keeps the evidence that it has gathered.
        """
        if len(self._recent) < RECENT // 2:
            return False
        x, serving, candidate = (np.stack(column) for column in zip(*self._recent, strict=True))
        moved = (run(newer, x).argmax(1) != candidate).mean()
        return bool(moved > FAR * (candidate != serving).mean())

    def evidence(self) -> Evidence:
        """What the gates look at now."""
        pairing, case = self.pairing, self.case
        return Evidence(
            pairing.window("serving"),
            pairing.window("candidate"),
            pairing.wins,
            pairing.losses,
            pairing.labels,
            case.alpha,
            case.parity,
            case.size_ratio,
            case.latency_ratio,
            judged=tuple(pairing.judged),
            source=pairing.window("source"),
            proven=pairing.window("proven"),
            tenants=pairing.tenants,
            anchor=case.anchor,
            expected=self._expected,
            health=case.health,
            null=case.null,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything but sessions and anchor: those are made again from the graphs."""
        case = replace(self.case, anchor=None, null={})
        kept = {name: getattr(case, name) for name in CandidateFacts.__dataclass_fields__}
        looks = (self._looks, self.passed)
        return {
            "number": self.version.number,
            "against": self.against,
            "domain": self.domain.blocks.tolist(),
            "case": kept,
            "pairing": self.pairing.state_dict(),
            "looks": looks,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` of the same candidate."""
        self.pairing.load_state_dict(state["pairing"])
        self._looks, self.passed = state["looks"]
        self.domain = DataRegime(state["domain"])
