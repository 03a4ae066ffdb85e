"""After a swap: the version that serves beside its rollback target, on the same held-out records.

Taken back at once: by late labels (the reverse e-process while it bakes, an e-detector for as long as it serves), an
answer that is not finite, the end of a guarded version's time. Taken back when it repeats: a label-free veto in
windows that follow each other, unless it is a guess that labels outrank.

While it bakes, labels of records that teach the copy count as well: the version was made before them, and harm is to
be found soon. Candidates are never judged by them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tta_agent.core.evidence import AnchorResult, Evidence
from tta_agent.core.protocols import Gate
from tta_agent.core.types import GateResult, Label, Version
from tta_agent.evaluation.decision import is_plausibility, leads_by
from tta_agent.evaluation.paired import BatchPredictions, PairedEvaluation
from tta_agent.evaluation.sequential import RUN_LENGTH, RegressionTest
from tta_agent.models.ort_sessions import Session

DECISIVE = 50  # latest labels that only one of both got right, by which the version may lead


class BakeMonitor:
    """Watch over one version in service.

    Args:
        version, baseline: what serves, and the rollback target.
        graphs: sessions; here `serving` is the baseline and `candidate` what serves now.
        vetoes: gates that are asked about each window.
        alpha: of the reverse test while it bakes.
        bake_records: held-out records after which the version counts as settled.
        window: held-out records of one look at the vetoes.
        trips: windows in a row in which a veto must fail.
        bucket_s: one label counts for each entity and stretch of this length.
        expires_s: when a guarded version ends, or None.
        outranked: names of gates whose doubts labels set aside at the promotion.
        anchor, null: as for an evaluation.
    """

    def __init__(
        self,
        version: Version,
        baseline: Version,
        graphs: Mapping[str, Session],
        vetoes: Sequence[Gate],
        *,
        alpha: float,
        bake_records: int,
        window: int,
        trips: int,
        bucket_s: float = 0.0,
        expires_s: float | None = None,
        outranked: Collection[str] = (),
        anchor: AnchorResult | None = None,
        null: Mapping[str, float] | None = None,
    ) -> None:
        self.version, self.baseline = version, baseline
        self.pairs = PairedEvaluation(graphs, {}, window, bucket_s)
        pair = {role: graphs[role] for role in ("serving", "candidate")}
        self._taught = PairedEvaluation(pair, {}, 1, bucket_s)
        self._vetoes, self._alpha = tuple(vetoes), alpha
        self._bake_records, self._window, self._trips = bake_records, window, trips
        self._expires_s, self._anchor, self._null = expires_s, anchor, null or {}
        self._outranked = frozenset(outranked)
        self._decisive: deque[int] = deque(maxlen=DECISIVE)  # +1: only the version is right
        self._regression = RegressionTest()
        self._tripped = 0
        self._settled = False

    @property
    def session(self) -> Session:
        """Of the version."""
        return self.pairs.graphs["candidate"]

    @property
    def rollback_session(self) -> Session:
        """Of the rollback target."""
        return self.pairs.graphs["serving"]

    def on_records(self, batch: BatchPredictions, now_s: float) -> GateResult | None:
        """Held-out records; the reason for which the version must go, if there is one."""
        self.pairs.on_records(batch)
        if self._expires_s is not None and now_s >= self._expires_s:
            late_s = now_s - self._expires_s
            return GateResult(
                "expiry", late_s, 0.0, "fail", "the time of a guarded version is over, and nothing proved it"
            )
        if self.pairs.held < self._window:
            return None
        failed = self._failed()
        self.pairs.forget_window()
        self._tripped = self._tripped + 1 if failed else 0
        broken = [result for result in failed if result.gate == "integrity"]
        return (broken or failed)[0] if broken or self._tripped >= self._trips else None

    def on_training_records(self, batch: BatchPredictions) -> None:
        """Records that teach: while it bakes their labels count, too."""
        if self.baking:
            self._taught.on_records(batch)

    def _failed(self) -> list[GateResult]:
        """Vetoes that fail, without the guesses that labels outrank: those before the promotion, or those since."""
        evidence = self._evidence()
        leads = leads_by(self._decisive.count(1), self._decisive.count(-1))
        judged = [(gate, gate.judge(evidence)) for gate in self._vetoes]
        return [
            result
            for gate, result in judged
            if result.verdict == "fail"
            and not (is_plausibility(gate) and (leads or result.gate in self._outranked))
        ]

    def _evidence(self) -> Evidence:
        pairs = self.pairs
        return Evidence(
            pairs.window("serving"), pairs.window("candidate"), pairs.wins, pairs.losses, pairs.labels,
            self._alpha, source=pairs.window("source"), proven=pairs.window("serving"), tenants=pairs.tenants,
            anchor=self._anchor, null=self._null,
        )  # fmt: skip

    def on_label(self, label: Label) -> GateResult | None:
        """One label; the reason for which the version must go, if there is one."""
        judged = self.pairs.on_label(label) or self._taught.on_label(label)
        if judged is None or not judged.step:
            return None
        self._decisive.append(judged.step)
        test = self._regression
        test.count(judged.step < 0, judged.step > 0)
        wins, losses = test.outcomes
        count = f"version {self.baseline.number} won {wins}, lost {losses} against it"
        if not self._settled and test.since_start >= 1 / self._alpha:
            reason = f"labels say it is worse: {count}"
            return GateResult("reverse", test.since_start, 1 / self._alpha, "fail", reason)
        if test.since_any >= RUN_LENGTH:
            reason = f"labels say it has become worse: {count}"
            return GateResult("detector", test.since_any, RUN_LENGTH, "fail", reason)
        return None

    def settles(self) -> bool:
        """True once: when the version has lasted its bake period."""
        if self._settled or self.pairs.records < self._bake_records:
            return False
        self._settled = True
        return True

    @property
    def baking(self) -> bool:
        """Whether it has not lasted yet."""
        return not self._settled

    def state_dict(self) -> dict[str, Any]:
        """Everything but sessions and anchor."""
        return {
            "number": self.version.number,
            "baseline": self.baseline.number,
            "pairs": self.pairs.state_dict(),
            "taught": self._taught.state_dict(),
            "regression": self._regression.state_dict(),
            "decisive": list(self._decisive),
            "tripped": self._tripped,
            "settled": self._settled,
            "expires_s": self._expires_s,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` about the same two versions."""
        self.pairs.load_state_dict(state["pairs"])
        self._taught.load_state_dict(state["taught"])
        self._regression.load_state_dict(state["regression"])
        self._decisive.extend(state["decisive"])
        self._tripped, self._settled, self._expires_s = state["tripped"], state["settled"], state["expires_s"]
