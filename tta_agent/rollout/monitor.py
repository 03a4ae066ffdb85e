"""Watches over what serves, obeys commands, and goes back where it must.

A version serves where it was proven. When records of another kind arrive the source takes over at once, and the
version comes back with records of its own kind. That is no roll-back: no cool-down, and what was learnt stays.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tta_agent.control.commands import Command, CommandInbox
from tta_agent.core.errors import LedgerError
from tta_agent.core.types import GateResult, Label, Version
from tta_agent.drift.detector import DataRegime, features
from tta_agent.evaluation.paired import BatchPredictions
from tta_agent.models.ort_sessions import Session
from tta_agent.rollout.approval import Answer, Approval
from tta_agent.rollout.bake import BakeMonitor
from tta_agent.rollout.deployments import Deployments
from tta_agent.rollout.factory import EvaluationFactory
from tta_agent.rollout.limits import RolloutLimits
from tta_agent.rollout.ports import RollbackHook
from tta_agent.serving.deployment import ServedModel

log = logging.getLogger(__name__)
LATEST = 32  # records of those that teach, in each poll, that the source is asked about


class ServingMonitor:
    """One version in service against the one before it; the only place from which versions are taken back.

    Args:
        pace: is told of roll-backs and of versions that have lasted.
        approval: is told what people said about candidates.
        inbox: commands, or None.
        hook: asked while a version bakes, or None.
        every_s: how often the server is asked whether it answers as it should.
        follows: whether the source takes over on records of another kind than those of a version's proof.
        clock: seconds since the epoch, as the stream counts them.
    """

    def __init__(
        self,
        service: ServedModel,
        docket: EvaluationFactory,
        pace: RolloutLimits,
        approval: Approval,
        *,
        inbox: CommandInbox | None = None,
        hook: RollbackHook | None = None,
        every_s: float = 10.0,
        follows: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._service, self._docket, self._pace, self._approval = service, docket, pace, approval
        self._inbox, self._hook, self._every_s, self._clock = inbox, hook, every_s, clock
        self._follows = follows
        self._posts = Deployments()
        self._checked_s, self._turn_again_s = clock(), 0.0

    @property
    def watch(self) -> BakeMonitor | None:
        """Over what serves; none over the source, nor over what others have put into service."""
        return self._posts.watch(self._service.version.number)

    def ended(self) -> DataRegime | None:
        """The kind of records that has ended, where others have begun to arrive with what was heard last."""
        return self._posts.ended

    def fits(self, domain: DataRegime) -> bool:
        """Whether records of that kind arrive now."""
        return self._posts.fits(domain)

    def rival(self) -> Session | None:
        """Of what would be gone back to, while what serves bakes."""
        watch = self.watch
        return watch.pairing.graphs["serving"] if watch and watch.baking else None

    def begin(self, baseline: Version, expires_s: float | None) -> None:
        """A swap has happened; `baseline` is what would be gone back to."""
        self._posts.add(self._docket.watch(self._service.version, baseline, expires_s))

    def hear(self, asked: BatchPredictions, taught: BatchPredictions, labels: Sequence[Label]) -> bool:
        """8: held-out records, those that teach, then labels. Whether what served was taken back: all starts over."""
        watch, found = self.watch, None
        if watch is not None:
            found = watch.observe(asked, self._clock())
            watch.observe_taught(taught)
        wrong = self._posts.label(labels)
        found = found or wrong.pop(self._service.version.number, None)
        for number, finding in wrong.items():
            self._withdraw(number, finding)
        if watch is not None and found:
            return self._take_back(watch.baseline, found, "agent")
        if watch is not None and watch.settles():
            self._pace.settled()
            self._service.say("confirmed", version=watch.version.number, records=watch.pairing.records)
        if self._follows:
            self._follow(asked, taught)
        return bool(wrong)

    def _withdraw(self, number: int, finding: GateResult) -> None:
        """Found wrong while another version serves: it never comes back."""
        self._posts.drop(number)
        self._service.withdraw(number, finding)
        self._pace.trip(self._clock())

    def _follow(self, asked: BatchPredictions, taught: BatchPredictions) -> None:
        """Ask the source about the records (the latest few of those that teach): serve what is proven on such."""
        source = self._service.session_of(self._service.source)
        few = len(taught.records) <= LATEST  # then no graph is asked twice
        latest = taught if few else BatchPredictions(list(taught.records.values())[-LATEST:])
        rows = [
            features(some.by(source, list(some.records)), some.x) for some in (asked, latest) if some.records
        ]
        found = self._posts.look(self._service.version.number, np.concatenate(rows or [np.empty((0, 0))]))
        if found is None or self._approval.mode == "never" or self._clock() < self._turn_again_s:
            return
        number, finding = found
        if number and self._is_frozen():
            return
        watch = self._posts.watch(number)
        target = watch.version if watch else self._service.source
        session = watch.pairing.graphs["candidate"] if watch else source
        if self._service.turn_to(target, session, finding):
            self._posts.turn(left=number == 0)
        else:  # a server that refuses is not asked at every block
            self._turn_again_s = self._clock() + self._every_s

    def _is_frozen(self) -> bool:
        return bool((self._inbox and self._inbox.frozen()) or self._pace.frozen(self._clock()))

    def attend(self) -> bool:
        """Commands, and the server's own health. Whether adaptation starts over."""
        again = [self._obey(command) for command in (self._inbox.take() if self._inbox else ())]
        if self._service.overruled():
            self._posts.clear()
            self._pace.trip(self._clock())
            again.append(True)
        if self._clock() - self._checked_s >= self._every_s:
            self._checked_s = self._clock()
            again.append(self._ask_around())
        return any(again)

    def _ask_around(self) -> bool:
        """What the server says, and the webhook."""
        watch, found = self.watch, self._service.check() or self._asked_for()
        if found is None:
            return False
        if watch is None:
            self._service.realign(found)
            return False
        return self._take_back(watch.baseline, found, "agent")

    def _asked_for(self) -> GateResult | None:
        """Whether the webhook wants a version gone that still bakes."""
        watch = self.watch
        if watch is None or not watch.baking or self._hook is None:
            return None
        if not self._hook.rollback({"version": watch.version.number, "baseline": watch.baseline.number}):
            return None
        return GateResult("webhook", 1.0, 0.0, "fail", "the webhook asked for it")

    def _obey(self, command: Command) -> bool:
        log.info("%s by %s %s", command.kind, command.by, command.reason)
        number = command.number
        if command.kind in ("approve", "reject") and number is not None:
            self._approval.say(number, Answer(command.kind == "approve", command.by, command.reason))
        elif command.kind == "rollback":
            return self._back_to(number, command)
        elif command.kind == "reset":
            return True
        self._service.say(command.kind, version=number, by=command.by, reason=command.reason)
        return False

    def _back_to(self, number: int | None, command: Command) -> bool:
        ledger, serving = self._service.ledger, self._service.version
        finding = GateResult("command", 1.0, 0.0, "fail", command.reason or "asked for by command")
        before = ledger.aliases().get("previous") if number is None else number
        try:
            if before is None:
                raise LedgerError(f"nothing served before version {serving.number}")
            gone = number is None and ledger.is_withdrawn(before)
            target = self._service.source if gone else ledger.get(before)
            return self._take_back(target, finding, command.by)
        except LedgerError as error:
            self._service.say("rollback_refused", version=number, by=command.by, error=str(error))
            return False

    def _take_back(self, target: Version, finding: GateResult, by: str) -> bool:
        gone = self._service.version.number
        if not self._service.take_back(target, finding, by):
            return False
        self._posts.drop(gone) if by == "agent" else self._posts.clear()
        wait_s = self._pace.trip(self._clock())
        log.warning(
            "version %d serves again (%s); next candidate in %.0f s", target.number, finding.reason, wait_s
        )
        if target.number and self.watch is None:
            self._posts.add(self._docket.watch(target, self._service.source))
        return True

    def state_dict(self) -> dict[str, Any]:
        """The watches, where their versions were proven, and the pace."""
        posts = [(post.watch.state_dict(), post.domain.blocks.tolist()) for post in self._posts]
        return {"posts": posts, "pace": self._pace.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the watches; where another version serves, a swap came later, and its watch begins."""
        self._pace.load_state_dict(state["pace"])
        serving, ledger = self._service.version, self._service.ledger
        for saved, blocks in state["posts"]:
            if ledger.is_withdrawn(saved["number"]):
                continue
            watch = self._docket.watch(ledger.get(saved["number"]), ledger.get(saved["baseline"]))
            watch.load_state_dict(saved)
            self._posts.add(watch, DataRegime(blocks))
        if serving.number and self.watch is None:
            previous = ledger.get(ledger.aliases().get("previous") or 0)
            self.begin(previous, ledger.verdict(serving.number).get("expires_s"))
