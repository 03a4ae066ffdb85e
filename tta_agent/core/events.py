"""Decisions and incidents that the agent reports: the lines of `events.jsonl` and the calls of the event webhook.

The table in `docs/reference/events.md` is made from this module.
"""

from __future__ import annotations

from enum import StrEnum


class Event(StrEnum):
    """Name of an event, with a sentence for people.

    Attributes:
        sentence: what has happened.
        fields: names of the data that come with it, besides `time` and `event`.
        former: its name before 0.2, sent as `formerly`, or None.
    """

    sentence: str
    fields: tuple[str, ...]
    former: str | None

    def __new__(cls, name: str, sentence: str = "", fields: str = "", former: str | None = None) -> Event:
        """A member with its sentence; `fields` are separated by blanks."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.sentence, member.fields, member.former = sentence, tuple(fields.split()), former
        return member

    @classmethod
    def named(cls, name: str) -> Event | None:
        """Event of this name, or of a name before 0.2, so that old files are still read; None for any other."""
        return next((event for event in cls if name in (event, event.former)), None)

    RESUMED = "resumed", "The agent goes on from its checkpoint.", "rounds"
    RESET = "reset", "The copy starts over from the source."
    DRIFT = "drift", "Records of another kind have begun to arrive.", "distance features records"

    CANDIDATE = (
        "candidate",
        "A snapshot of the copy is pinned; its evaluation begins.",
        "version parent rounds",
    )
    SUSPENDED = (
        "suspended",
        "An evaluation waits, for records of another kind arrive; it still counts late labels.",
        "version labels",
        "adjourned",
    )
    CONTINUED = (
        "continued",
        "A suspended evaluation goes on: records of its kind are back.",
        "version labels",
        "reopened",
    )
    VERDICT = "verdict", "The evaluation of a candidate has ended.", "version outcome findings"
    AWAITING = "awaiting", "A proven candidate waits for a person or a webhook to say yes.", "version proof"

    SWAP = "swap", "A proven version serves.", "version before proof by seconds reason"
    SWAP_FAILED = "swap_failed", "The server refused a version; the one before serves on.", "version error"
    CONFIRMED = "confirmed", "A new version has lasted its bake period.", "version records"
    FALLBACK = (
        "fallback",
        "Records are of another kind than those that the version was proven on: the source serves.",
        "version before by reason finding",
    )
    REINSTATED = (
        "reinstated",
        "Records of its kind are back, and so is the version.",
        "version before by reason finding",
    )
    ROLLBACK = (
        "rollback",
        "Labels, a veto, the server or a command took a version back for good.",
        "version before by reason finding",
    )
    ROLLBACK_REFUSED = "rollback_refused", "A command named a version that cannot serve.", "version by error"
    WITHDRAWN = (
        "withdrawn",
        "Labels found against a version while another one served: it never comes back.",
        "version reason finding",
    )
    REALIGNED = (
        "realigned",
        "The server answered otherwise than the registry says, and was corrected.",
        "version reason attempt",
    )
    ALIAS_REFUSED = (
        "alias_refused",
        "The alias `serving` named a version that may not serve; the last proven one serves on.",
        "version reason",
    )
    PROMOTED = "promoted", "A person put a version into service by command.", "version before by force"

    APPROVE = "approve", "A person said yes to a candidate.", "version by reason"
    REJECT = "reject", "A person said no to a candidate.", "version by reason"
    FREEZE = "freeze", "Swaps are frozen by command; roll-backs still happen.", "version by reason"
    UNFREEZE = "unfreeze", "Swaps are allowed again.", "version by reason"
