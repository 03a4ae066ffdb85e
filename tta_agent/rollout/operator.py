"""Commands of people, taken from the inbox in the rollout's own thread."""

from __future__ import annotations

import logging

from tta_agent.control.commands import Command, CommandInbox
from tta_agent.core.errors import RegistryError
from tta_agent.core.events import Event
from tta_agent.core.types import GateResult
from tta_agent.registry import trust
from tta_agent.rollout.approval import Approval, ApprovalAnswer
from tta_agent.rollout.monitor import ServingMonitor
from tta_agent.serving.deployment import ServedModel

log = logging.getLogger(__name__)


class OperatorCommands:
    """Obeys approve, reject, rollback, freeze, unfreeze and reset.

    Args:
        inbox: commands, or None.
        approval: is told what people said about candidates.
    """

    def __init__(
        self, inbox: CommandInbox | None, approval: Approval, monitor: ServingMonitor, served: ServedModel
    ) -> None:
        self._inbox, self._approval, self._monitor, self._served = inbox, approval, monitor, served

    def obey(self) -> bool:
        """All commands since the last call; whether adaptation starts over."""
        return any([self._obey(command) for command in (self._inbox.take() if self._inbox else ())])

    def _obey(self, command: Command) -> bool:
        log.info("%s by %s %s", command.kind, command.by, command.reason)
        number = command.number
        if command.kind in ("approve", "reject") and number is not None:
            self._approval.say(number, ApprovalAnswer(command.kind == "approve", command.by, command.reason))
        elif command.kind == "rollback":
            return self._back_to(number, command)
        elif command.kind == "reset":
            return True
        self._served.say(Event(command.kind), version=number, by=command.by, reason=command.reason)
        return False

    def _back_to(self, number: int | None, command: Command) -> bool:
        registry, serving = self._served.registry, self._served.version
        result = GateResult("command", 1.0, 0.0, "fail", command.reason or "asked for by command")
        before = registry.aliases().get("previous") if number is None else number
        try:
            if before is None:
                raise RegistryError(f"nothing served before version {serving.number}")
            if number is not None and (why := trust.unproven(registry, number)):
                raise RegistryError(f"version {number} {why}")
            target = registry.get(trust.rollback_target(registry) if number is None else number)
            return self._monitor.take_back(target, result, command.by)
        except RegistryError as error:
            self._served.say(Event.ROLLBACK_REFUSED, version=number, by=command.by, error=str(error))
            return False
