"""The served version with its session, and every way in which it changes."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tta_agent.core.errors import RegistryError, StoreError, SwapError, TtaError
from tta_agent.core.events import Event
from tta_agent.core.protocols import ServerDriver
from tta_agent.core.types import Array, GateResult, Golden, Version
from tta_agent.models.ort_sessions import Session
from tta_agent.registry import trust
from tta_agent.registry.registry import ModelRegistry
from tta_agent.registry.retry_queue import RetryQueue
from tta_agent.serving.check import check
from tta_agent.serving.promotion import PromotionRecord
from tta_agent.serving.swap import bring_up, golden
from tta_agent.telemetry.event_log import EventLog
from tta_agent.telemetry.facade import Telemetry

log = logging.getLogger(__name__)
Say = Callable[..., None]
# by event, for the counter of swaps
OUTCOMES = {Event.ROLLBACK: "rolled_back", Event.FALLBACK: "fell_back", Event.REINSTATED: "reinstated"}


class ServedModel:
    """The version in service: server, alias `serving` of the registry, and session here, kept the same.

    Args:
        fixed: inputs [N, ...] on which a version is verified.
        open: makes a session of a file, or of a graph that has none yet.
        tell: called with name and data of each event, beside the event log.
        keep: number of proven versions whose graph the registry keeps.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        driver: ServerDriver,
        telemetry: Telemetry,
        journal: EventLog,
        fixed: Array,
        open: Callable[[Path | bytes], Session],
        tell: Callable[[str, dict[str, Any]], None] = lambda name, data: None,
        keep: int = 20,
    ) -> None:
        self.registry, self._driver, self._telemetry, self.journal = registry, driver, telemetry, journal
        self._fixed, self.open, self._tell, self._keep = fixed, open, tell, keep
        self._sessions, self._golden = dict[int, Session](), dict[int, Golden]()
        self.backlog, self.source = RetryQueue(), registry.get(0)
        self._graph_bytes, (number, fault) = self.source.size, trust.serving(registry)
        self.version = self._adopt(registry.get(number))
        if fault:
            self._correct_alias(fault)

    def _adopt(self, version: Version, session: Session | None = None) -> Version:
        if session is not None:
            self._sessions[version.number] = session
        self.journal.status(serving=version.number, proof=version.proof)
        self._telemetry.model(version.number, version.sha256, version.proof)
        return version

    @property
    def session(self) -> Session:
        """Session of the served version."""
        return self.session_of(self.version)

    def session_of(self, version: Version) -> Session:
        """Session of a version, opened once: source, served version and rollback target are asked again and again."""
        if version.number not in self._sessions:
            self._sessions[version.number] = self.open(version.path)
        return self._sessions[version.number]

    def keep_only(self, versions: Sequence[Version]) -> None:
        """Drop the sessions of all but these, the source and the served version."""
        wanted = {0, self.version.number, *(version.number for version in versions)}
        self._sessions = {number: s for number, s in self._sessions.items() if number in wanted}
        self._golden = {number: batch for number, batch in self._golden.items() if number in wanted}

    def say(self, event: Event, **data: Any) -> None:
        """Report a decision to event log and hooks."""
        former = {"formerly": event.former} if event.former else {}
        self.journal.event(event, **data, **former)
        self._tell(event, {**data, **former})

    def align(self) -> None:
        """Put the version that the registry calls `serving` into the server; after a crash in a swap they differ.

        Raises:
            SwapError: the server cannot swap, with what to do.
        """
        self._driver.probe()
        if self._driver.live() != self.version.number:
            bring_up(self._driver, self.version, self.expected(self.version, self.session))

    def overruled(self) -> bool:
        """Whether a command has moved `serving`; it is followed, once the registry knows of our own changes."""
        if not self.backlog.clear():
            return False
        number = self.registry.aliases()["serving"]
        if number is None or number == self.version.number:
            return False
        try:
            if fault := trust.faults(self.registry).get("serving"):
                self._correct_alias(fault)
                return False
            theirs = self.registry.get(number)
        except StoreError as error:
            log.warning("version %d is to serve, by somebody else's decision, but later: %s", number, error)
            return False
        log.info("version %d serves now, by somebody else's decision: adaptation starts over", number)
        self.version = self._adopt(theirs)
        return True

    def _correct_alias(self, fault: str) -> None:
        """Point `serving` at the version that serves, after it was found to name one that may not."""
        log.error("%s; version %d serves", fault, self.version.number)
        self.backlog.write(lambda: self.registry.serve(self.version.number, reason=fault))
        self.say(Event.ALIAS_REFUSED, version=self.version.number, reason=fault)

    def rolled_back_from(self, number: int) -> bool:
        """Whether that version, which served before, was taken back, or replaced by a command.

        A source that has taken over for another regime, or a newer promotion, is no roll-back.
        """
        if number == self.version.number:
            return False
        return self.registry.is_withdrawn(number) or self.registry.served_by() != "agent"

    @property
    def size(self) -> int:
        """Bytes of the served graph."""
        return self.version.size

    def realign(self, found: GateResult, attempt: int = 1) -> TtaError | None:
        """Put the served version into the server again, after a check has failed; the error, or None."""
        log.warning("%s: putting version %d into service again", found.reason, self.version.number)
        error = self._bring(self.version, self.session, nullcontext(), None)
        why = {"error": str(error)} if error else {}
        event = Event.SWAP_FAILED if error else Event.REALIGNED
        self.say(event, version=self.version.number, reason=found.reason, attempt=attempt, **why)
        return error

    def check(self) -> GateResult | None:
        """Check that the server answers with the served version, and as it should; the failed result, or None."""
        return check(self._driver, self.version.number, self.expected(self.version, self.session))

    def expected(self, version: Version, session: Session) -> Golden:
        """Golden batch of a version, computed once: of a candidate when its evaluation begins."""
        if version.number not in self._golden:
            self._golden[version.number] = golden(session, self._fixed, self._graph_bytes)
        return self._golden[version.number]

    def promote(
        self, version: Version, session: Session, record: PromotionRecord, carrier: str | None
    ) -> bool:
        """Swap to a proven version; whether it came into service. On failure the version before serves on."""
        before, started_s = self.version.number, time.monotonic()
        verifying = self._telemetry.verify(carrier)
        spans = self._telemetry.swap(type(self._driver).__name__, before, version.number, carrier)
        error = self._bring(version, session, spans, verifying)
        seconds = time.monotonic() - started_s
        self._telemetry.swap_done("failed" if error else "activated", seconds)
        if error:
            self.say(Event.SWAP_FAILED, version=version.number, error=str(error))
            return False
        try:
            self._write_down(version, record)
        except StoreError as failure:
            log.error("version %d could not be recorded, %d serves on: %s", version.number, before, failure)
            self._bring(self.version, self.session, nullcontext(), None)
            self.say(Event.SWAP_FAILED, version=version.number, error=str(failure))
            return False
        self.version = self._adopt(replace(version, proof=record.proof), session)
        findings = [asdict(finding) for finding in record.findings]
        self.say(Event.VERDICT, version=version.number, outcome=record.proof, findings=findings)
        self.say(
            Event.SWAP, version=version.number, before=before, proof=record.proof, by=record.by, seconds=seconds,
            reason=record.sentence(),
        )  # fmt: skip
        return True

    def _write_down(self, version: Version, record: PromotionRecord) -> None:
        self.registry.conclude(
            version.number, record.proof, record.proof, record.findings,
            by=record.by, counts=record.counts, expires_s=record.expires_s,
        )  # fmt: skip
        self.registry.serve(version.number, by=record.by, reason=record.proof)
        self.backlog.write(lambda: self.registry.gc(self._keep))

    def take_back(self, target: Version, finding: GateResult, by: str) -> bool:
        """Roll back to an earlier version and mark this one as withdrawn; whether that succeeded."""
        gone = self.version.number
        withdraw = functools.partial(self.registry.take_back, gone, finding.reason, by=by)
        return self._go_to(target, self.session_of(target), finding, by, Event.ROLLBACK, withdraw)

    def turn_to(self, target: Version, session: Session, finding: GateResult) -> bool:
        """Put the source, or a version that was proven on this regime, into service; whether that succeeded."""
        return self._go_to(
            target, session, finding, "agent", Event.REINSTATED if target.number else Event.FALLBACK
        )

    def withdraw(self, number: int, finding: GateResult) -> None:
        """Mark a version that does not serve as withdrawn."""
        self.backlog.write(lambda: self.registry.take_back(number, finding.reason))
        self.say(Event.WITHDRAWN, version=number, reason=finding.reason, finding=asdict(finding))

    def _go_to(
        self, target: Version, session: Session, finding: GateResult, by: str, event: Event,
        first: Callable[[], None] = lambda: None,
    ) -> bool:  # fmt: skip
        before, started_s = self.version.number, time.monotonic()
        error = self._bring(target, session, nullcontext(), None)
        self._telemetry.swap_done("failed" if error else OUTCOMES[event], time.monotonic() - started_s)
        if error:
            self.say(Event.SWAP_FAILED, version=target.number, error=str(error))
            return False
        self.backlog.write(first)
        self.backlog.write(lambda: self.registry.serve(target.number, by=by, reason=finding.reason))
        self.version = self._adopt(target, session)
        told = {"before": before, "by": by, "reason": finding.reason, "finding": asdict(finding)}
        self.say(event, version=target.number, **told)
        return True

    def _bring(
        self,
        version: Version,
        session: Session,
        span: AbstractContextManager[object],
        verifying: AbstractContextManager[object] | None,
    ) -> TtaError | None:
        try:
            with span:
                bring_up(self._driver, self._at_hand(version), self.expected(version, session), verifying)
        except (SwapError, RegistryError) as error:
            log.error("the swap failed, version %d serves on: %s", self.version.number, error)
            return error
        return None

    def _at_hand(self, version: Version) -> Version:
        """With its file, which may have made room for newer ones since."""
        return version if version.path.exists() else self.registry.get(version.number)
