"""After a swap: the version that serves beside the one to which one would go back, on the same held-out records.

Taken back at once: by late labels (the reverse e-process while it bakes, an e-detector for as long as it serves), an
answer that is not finite, the end of a guarded version's time. Taken back when it repeats: a label-free veto in
windows that follow each other.

While it bakes, labels of records that teach the copy count as well: the version was made before them, and harm is to
be found soon. Candidates are never judged by them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tta_agent.core.evidence import AnchorResult, Evidence
from tta_agent.core.protocols import Gate
from tta_agent.core.types import GateResult, Label, Version
from tta_agent.evaluation.paired import BatchPredictions, PairedEvaluation
from tta_agent.evaluation.sequential import RUN_LENGTH, RegressionTest
from tta_agent.models.ort_sessions import Session


class BakeMonitor:
    """One version in service.

    Args:
        version, baseline: what serves, and what would be gone back to.
        graphs: sessions; here `serving` is the baseline and `candidate` what serves now.
        vetoes: gates that are asked about each window.
        alpha: of the reverse test while it bakes.
        bake_records: held-out records after which the version counts as settled.
        window: held-out records of one look at the vetoes.
        trips: windows in a row in which a veto must fail.
        bucket_s: one label counts for each entity and stretch of this length.
        expires_s: when a guarded version ends, or None.
        anchor, null: as for a trial.
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
        anchor: AnchorResult | None = None,
        null: Mapping[str, float] | None = None,
    ) -> None:
        self.version, self.baseline = version, baseline
        self.pairing = PairedEvaluation(graphs, {}, window, bucket_s)
        pair = {role: graphs[role] for role in ("serving", "candidate")}
        self._taught = PairedEvaluation(pair, {}, 1, bucket_s)
        self._vetoes, self._alpha = tuple(vetoes), alpha
        self._bake_records, self._window, self._trips = bake_records, window, trips
        self._expires_s, self._anchor, self._null = expires_s, anchor, null or {}
        self._reverse = RegressionTest()
        self._tripped = 0
        self._settled = False

    def observe(self, asked: BatchPredictions, now_s: float) -> GateResult | None:
        """Held-out records; why the version must go, if it must."""
        self.pairing.observe(asked)
        if self._expires_s is not None and now_s >= self._expires_s:
            late_s = now_s - self._expires_s
            return GateResult(
                "expiry", late_s, 0.0, "fail", "the time of a guarded version is over, and nothing proved it"
            )
        if self.pairing.held < self._window:
            return None
        failed = [finding for finding in self._judge() if finding.verdict == "fail"]
        self.pairing.forget_window()
        self._tripped = self._tripped + 1 if failed else 0
        broken = [finding for finding in failed if finding.gate == "integrity"]
        return (broken or failed)[0] if broken or self._tripped >= self._trips else None

    def observe_taught(self, asked: BatchPredictions) -> None:
        """Records that teach: while it bakes their labels count, too."""
        if self.baking:
            self._taught.observe(asked)

    def _judge(self) -> list[GateResult]:
        pairing = self.pairing
        evidence = Evidence(
            pairing.window("serving"), pairing.window("candidate"), pairing.wins, pairing.losses, pairing.labels,
            self._alpha, source=pairing.window("source"), proven=pairing.window("serving"), tenants=pairing.tenants,
            anchor=self._anchor, null=self._null,
        )  # fmt: skip
        return [gate.judge(evidence) for gate in self._vetoes]

    def label(self, label: Label) -> GateResult | None:
        """One label; why the version must go, if it must."""
        judged = self.pairing.label(label) or self._taught.label(label)
        if judged is None or not judged.step:
            return None
        self._reverse.count(judged.step < 0, judged.step > 0)
        wins, losses = self._reverse.outcomes
        count = f"version {self.baseline.number} won {wins}, lost {losses} against it"
        if not self._settled and self._reverse.since_start >= 1 / self._alpha:
            value = self._reverse.since_start
            return GateResult("reverse", value, 1 / self._alpha, "fail", f"labels say it is worse: {count}")
        if self._reverse.since_any >= RUN_LENGTH:
            value = self._reverse.since_any
            return GateResult(
                "detector", value, RUN_LENGTH, "fail", f"labels say it has become worse: {count}"
            )
        return None

    def settles(self) -> bool:
        """True once: when the version has lasted its bake period."""
        if self._settled or self.pairing.records < self._bake_records:
            return False
        self._settled = True
        return True

    @property
    def baking(self) -> bool:
        """Whether it has not lasted yet."""
        return not self._settled

    def state_dict(self) -> dict[str, Any]:
        """Everything but sessions and anchor."""
        counts = {"tripped": self._tripped, "settled": self._settled, "expires_s": self._expires_s}
        versions = {"number": self.version.number, "baseline": self.baseline.number}
        return {
            "pairing": self.pairing.state_dict(),
            "taught": self._taught.state_dict(),
            "reverse": self._reverse.state_dict(),
            **counts,
            **versions,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` about the same two versions."""
        self.pairing.load_state_dict(state["pairing"])
        self._taught.load_state_dict(state["taught"])
        self._reverse.load_state_dict(state["reverse"])
        self._tripped, self._settled, self._expires_s = state["tripped"], state["settled"], state["expires_s"]
