"""Where candidates are judged: compose the graph, test it beside the serving one, promote or reject it."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from tta_agent.errors import GraphError, SwapError
from tta_agent.graph import MasterGraph, answers, parity
from tta_agent.journal import Journal
from tta_agent.messages import Proposal
from tta_agent.protocols import Gate, Swapper
from tta_agent.sessions import Session, open_session, run
from tta_agent.swap import bring_up, golden
from tta_agent.telemetry import Telemetry
from tta_agent.trial import Trial
from tta_agent.types import Finding, Label, Positions, Record, Version
from tta_agent.versions import Ledger

log = logging.getLogger(__name__)


class Court:
    """One candidate at a time against what serves.

    Args:
        swap: whether a certified candidate is put into the server, or only written down.
        alpha: bound on the probability of a false promotion between two promotions; the k-th candidate since
            the last one may spend 6 alpha / (pi^2 k^2), which sums to alpha.
        patience_records: held-out records after which an undecided candidate gives way.
        cooldown_s: no candidate for this long after a roll-back or a failed swap.
        threads, device: for ONNX Runtime.
    """

    def __init__(
        self,
        master: MasterGraph,
        ledger: Ledger,
        gates: Sequence[Gate],
        swapper: Swapper,
        telemetry: Telemetry,
        journal: Journal,
        *,
        swap: bool,
        alpha: float,
        patience_records: int,
        cooldown_s: float,
        threads: int = 1,
        device: str = "cpu",
    ) -> None:
        self._master, self._ledger, self._gates, self._swapper = master, ledger, gates, swapper
        self._telemetry, self._journal, self._swap = telemetry, journal, swap
        self._driver = type(swapper).__name__
        self._alpha, self._patience_records, self._cooldown_s = alpha, patience_records, cooldown_s
        self._open = functools.partial(open_session, threads=threads, device=device)
        self.trial: Trial | None = None
        self._tried = 0  # candidates since the last promotion
        self.labels_used = 0
        self._carrier: str | None = None
        self._cool_until_s = 0.0
        self.serving = self._adopt(self._ledger.get(self._ledger.aliases()["serving"] or 0))

    def _adopt(self, version: Version, session: Session | None = None) -> Version:
        self._session = session or self._open(version.path)
        self._journal.status(serving=version.number)
        self._telemetry.model(version.number, version.sha256, "", version.proof)
        return version

    def align(self) -> None:
        """Make the server answer what the ledger says: a crash in the middle of a swap left it ahead.

        Raises:
            SwapError: the server cannot swap, with what to do.
        """
        self._swapper.probe()
        if self._swapper.live() != self.serving.number:
            bring_up(self._swapper, self.serving, golden(self._session, self._master.fixed))

    def wants_candidate(self) -> bool:
        """No cool-down holds."""
        return time.monotonic() >= self._cool_until_s

    def overruled(self) -> bool:
        """Whether somebody else has moved `serving` (a roll-back by command): drop the trial, cool down."""
        number = self._ledger.aliases()["serving"]
        if number is None or number == self.serving.number:
            return False
        log.info("version %d serves now, by somebody else's decision: adaptation starts over", number)
        self._drop("overruled", [])
        self.serving = self._adopt(self._ledger.get(number))
        self._cool_down()
        return True

    def open(self, proposal: Proposal) -> None:
        """7: compose the candidate's graph, pin it in the ledger, and begin its trial.

        While a trial runs, a proposal only shows whether its candidate is outdated: it is when the copy has moved
        much further from it than it stands from what serves (a shift came meanwhile). Then the trial ends, and
        the next proposal, when the copy has had time to settle, is taken. Otherwise the candidate stays pinned.
        """
        try:
            with self._telemetry.export(proposal.carrier) as stage:
                graph = self._master.compose(proposal.module)
                candidate = self._open(graph)
                if self.trial:
                    if self.trial.outdated_by(candidate):
                        self._drop("superseded", [])
                    return
                agreement = self._parity(proposal.module, candidate)
                version = self._ledger.add(graph, self.serving, dict(proposal.history))
                stage.exported(version.sha256, len(graph))
        except GraphError as error:
            log.error("no candidate: %s", error)
            return
        self._tried += 1
        self._carrier = proposal.carrier
        ratio = len(graph) / self.serving.path.stat().st_size
        self.trial = self._begin(version, candidate, proposal.born, agreement, ratio)
        self._journal.event(
            "candidate", version=version.number, parent=self.serving.number, **proposal.history
        )

    def _parity(self, module: nn.Module, session: Session) -> tuple[float, float]:
        return parity(answers(module, self._master.fixed), run(session, self._master.fixed))

    def _begin(
        self,
        version: Version,
        session: Session,
        born: Positions,
        agreement: tuple[float, float],
        ratio: float,
    ) -> Trial:
        alpha = 6 * self._alpha / (math.pi * self._tried) ** 2
        return Trial(
            version, self._session, session, alpha=alpha, born=born, parity=agreement, size_ratio=ratio
        )

    def hear(self, records: Sequence[Record], labels: Sequence[Label]) -> None:
        """8: held-out records, then labels; a verdict where there is one."""
        if self.trial is None or not (records or labels):
            return  # an idle tick brings no new evidence to judge
        self.trial.observe(records)
        for label in labels:
            self.labels_used += self.trial.label(label)
        self._journal.status(labels_used=self.labels_used)
        self._judge(self.trial)

    def _judge(self, trial: Trial) -> None:
        evidence = trial.evidence()
        findings = [gate.judge(evidence) for gate in self._gates]
        self._journal.status(trial=trial.version.number, findings=[asdict(f) for f in findings])
        verdicts = {finding.verdict for finding in findings}
        if "fail" in verdicts:
            self._decide("rejected", findings)
        elif verdicts == {"pass"}:
            self._promote(trial, findings)
        elif trial.records >= self._patience_records:
            self._decide("expired", findings)

    def _decide(self, outcome: str, findings: Sequence[Finding]) -> None:
        self._record(findings)
        self._drop(outcome, findings)

    def _record(self, findings: Sequence[Finding]) -> None:
        with self._telemetry.gate(self._carrier) as stage:
            for finding in findings:
                stage.finding(finding)

    def _drop(self, outcome: str, findings: Sequence[Finding]) -> None:
        if self.trial is None:
            return
        if not self.trial.labels:
            self._tried -= 1  # a test that saw no label cannot have erred
        number, self.trial = self.trial.version.number, None
        self._ledger.reject(number, outcome, findings)
        self._tell(number, outcome, findings)

    def _tell(self, number: int, outcome: str, findings: Sequence[Finding]) -> None:
        self._journal.event(
            "verdict", version=number, outcome=outcome, findings=[asdict(f) for f in findings]
        )
        self._journal.status(trial=None, verdict={"version": number, "outcome": outcome})

    def _promote(self, trial: Trial, findings: Sequence[Finding]) -> None:
        """9: the swap. Whatever fails, the version that served before serves on."""
        self._record(findings)
        if not self._swap:
            self._drop("certified, not swapped in this mode", findings)
            return
        before, started_s = self.serving.number, time.monotonic()
        try:
            with self._telemetry.swap(self._driver, before, trial.version.number, self._carrier):
                expected = golden(trial.candidate, self._master.fixed)
                bring_up(self._swapper, trial.version, expected, self._telemetry.verify(self._carrier))
        except SwapError as error:
            self._swap_failed(error, findings, time.monotonic() - started_s)
            return
        self._ledger.conclude(trial.version.number, "certified", "certified", findings)
        self._ledger.serve(trial.version.number)
        seconds = time.monotonic() - started_s
        self._telemetry.swap_done("activated", seconds)
        self._tell(trial.version.number, "certified", findings)
        self._journal.event("swap", version=trial.version.number, before=before, seconds=seconds)
        self.trial, self._tried = None, 0
        self.serving = self._adopt(trial.version, trial.candidate)

    def _swap_failed(self, error: SwapError, findings: Sequence[Finding], seconds: float) -> None:
        log.error("the swap failed, version %d serves on: %s", self.serving.number, error)
        self._telemetry.swap_done("failed", seconds)
        self._journal.event("swap_failed", error=str(error))
        self._drop("swap failed", findings)
        self._cool_down()

    def _cool_down(self) -> None:
        self._cool_until_s = time.monotonic() + self._cooldown_s

    def state_dict(self) -> dict[str, Any]:
        """The trial and its budget."""
        trial = self.trial.state_dict() if self.trial else None
        counts = {"tried": self._tried, "labels_used": self.labels_used}
        return {"serving": self.serving.number, "trial": trial, **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the trial, where its candidate is still undecided and faces the same opponent."""
        self.labels_used, saved = state["labels_used"], state["trial"]
        if state["serving"] != self.serving.number:
            return  # a swap came after the checkpoint
        self._tried = state["tried"]
        if saved is None or saved["number"] not in self._ledger.undecided():
            return
        version = self._ledger.get(saved["number"])
        session = self._open(version.path)
        self.trial = self._begin(version, session, saved["born"], saved["parity"], saved["size_ratio"])
        self.trial.alpha = saved["alpha"]
        self.trial.load_state_dict(saved)

    def clear_up(self) -> None:
        """Conclude candidates that a crash has left without a trial."""
        running = self.trial.version.number if self.trial else None
        for number in set(self._ledger.undecided()) - {running}:
            self._ledger.reject(number, "abandoned by a restart", [])
