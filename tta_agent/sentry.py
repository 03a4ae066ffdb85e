"""Watches over what serves, obeys commands, and goes back where it must."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tta_agent.approval import Answer, Approval
from tta_agent.counsel import Recall
from tta_agent.docket import Docket
from tta_agent.errors import LedgerError
from tta_agent.inbox import Command, Inbox
from tta_agent.pace import Pace
from tta_agent.pairing import Asked
from tta_agent.service import Service
from tta_agent.types import Finding, Label, Version
from tta_agent.watch import Watch

log = logging.getLogger(__name__)


class Sentry:
    """One version in service against the one before it; the only place from which versions are taken back.

    Args:
        pace: is told of roll-backs and of versions that have lasted.
        approval: is told what people said about candidates.
        inbox: commands, or None.
        hook: asked while a version bakes, or None.
        every_s: how often the server is asked whether it answers as it should.
        clock: seconds since the epoch, as the stream counts them.
    """

    def __init__(
        self,
        service: Service,
        docket: Docket,
        pace: Pace,
        approval: Approval,
        *,
        inbox: Inbox | None = None,
        hook: Recall | None = None,
        every_s: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._service, self._docket, self._pace, self._approval = service, docket, pace, approval
        self._inbox, self._hook, self._every_s, self._clock = inbox, hook, every_s, clock
        self.watch: Watch | None = None
        self._checked_s = clock()

    def begin(self, baseline: Version, expires_s: float | None) -> None:
        """A swap has happened; `baseline` is what would be gone back to."""
        self.watch = self._docket.watch(self._service.version, baseline, expires_s)

    def hear(self, asked: Asked, taught: Asked, labels: Sequence[Label]) -> bool:
        """8: held-out records, those that teach, then labels. Whether what served was taken back: all starts over."""
        watch = self.watch
        if watch is None:
            return False
        found = watch.observe(asked, self._clock())
        watch.observe_taught(taught)
        for label in labels:
            found = found or watch.label(label)
        if found:
            return self._take_back(watch.baseline, found, "agent")
        if watch.settles():
            self._pace.settled()
            self._service.say("confirmed", version=watch.version.number, records=watch.pairing.records)
        return False

    def attend(self) -> bool:
        """Commands, and the server's own health. Whether adaptation starts over."""
        again = [self._obey(command) for command in (self._inbox.take() if self._inbox else ())]
        if self._service.overruled():
            self.watch = None
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

    def _asked_for(self) -> Finding | None:
        """Whether the webhook wants a version gone that still bakes."""
        watch = self.watch
        if watch is None or not watch.baking or self._hook is None:
            return None
        if not self._hook.rollback({"version": watch.version.number, "baseline": watch.baseline.number}):
            return None
        return Finding("webhook", 1.0, 0.0, "fail", "the webhook asked for it")

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
        finding = Finding("command", 1.0, 0.0, "fail", command.reason or "asked for by command")
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

    def _take_back(self, target: Version, finding: Finding, by: str) -> bool:
        if not self._service.take_back(target, finding, by):
            return False
        wait_s = self._pace.trip(self._clock())
        log.warning(
            "version %d serves again (%s); next candidate in %.0f s", target.number, finding.reason, wait_s
        )
        self.watch = None if target.number == 0 else self._docket.watch(target, self._service.source)
        return True

    def state_dict(self) -> dict[str, Any]:
        """The watch and the pace."""
        return {"watch": self.watch.state_dict() if self.watch else None, "pace": self._pace.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the watch, where the same version serves; else a swap came later, and its watch begins."""
        self._pace.load_state_dict(state["pace"])
        serving, saved, ledger = self._service.version, state["watch"], self._service.ledger
        if saved is not None and saved["number"] == serving.number:
            self.watch = self._docket.watch(serving, ledger.get(saved["baseline"]))
            self.watch.load_state_dict(saved)
        elif serving.number:
            self.begin(
                ledger.get(ledger.aliases().get("previous") or 0),
                ledger.verdict(serving.number).get("expires_s"),
            )
