"""Approval of proven candidates: given at once in mode auto, by a person or a webhook in mode approve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tta_agent.rollout.ports import ApprovalHook

Mode = Literal["never", "ask", "always"]


@dataclass(frozen=True, slots=True)
class ApprovalAnswer:
    """One answer about a candidate, and its author."""

    yes: bool
    by: str
    reason: str = ""


class Approval:
    """Collects answers about candidates.

    Args:
        mode: never swap, ask first, or always say yes.
        hook: asked in mode `ask`, beside people.
    """

    def __init__(self, mode: Mode, hook: ApprovalHook | None = None) -> None:
        self.mode, self._hook = mode, hook
        self._said: dict[int, ApprovalAnswer] = {}

    def say(self, number: int, answer: ApprovalAnswer) -> None:
        """A person has decided about a version."""
        self._said[number] = answer

    def of(self, number: int, explanation: Mapping[str, Any]) -> ApprovalAnswer | None:
        """The answer about a version; None: not yet."""
        if self.mode != "ask":
            return ApprovalAnswer(self.mode == "always", "agent", "not swapped in this mode")
        if number in self._said:
            return self._said.pop(number)
        said = self._hook.confirm(explanation) if self._hook else None
        return None if said is None else ApprovalAnswer(said, "webhook", "the webhook said no")
