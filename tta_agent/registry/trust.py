"""Whether the aliases may be believed: they are a file that anybody may have edited.

A version may serve where its verdict says that it was proven, or that a person forced it, and where the history of
service, which is written first, leads to it.
"""

from __future__ import annotations

from tta_agent.core.types import PROVING
from tta_agent.registry import history
from tta_agent.registry.reader import STANDS, Reader

PROVEN = ("source", *PROVING)  # proofs of a version that may serve


def unproven(registry: Reader, number: int) -> str | None:
    """Why no proof lets a version serve, or None; a version that was forced by command needs none."""
    if number not in registry.numbers():
        return "does not exist"
    verdict = registry.verdict(number)
    if verdict.get("proof") in PROVEN or verdict.get("outcome") == "forced":
        return None
    return "was never proven" if verdict else "is still under test"


def objection(registry: Reader, number: int) -> str | None:
    """Why a version must not serve, or None: it is unproven, or was taken back and has not been served since."""
    gone = registry.withdrawal(number)
    changes = history.entries(registry.storage) if gone else []
    if gone and not any(one["number"] == number and one["time"] > gone["time"] for one in changes):
        return f"was taken back ({gone['reason']})"
    return unproven(registry, number)


def faults(registry: Reader) -> dict[str, str]:
    """By alias, why it cannot be believed. `previous` may name a version that was taken back."""
    serving, previous = (registry.aliases().get(alias) for alias in ("serving", "previous"))
    reasons = {
        "serving": None if serving is None else objection(registry, serving) or _other(registry, serving),
        "previous": None if previous is None else unproven(registry, previous),
    }
    told = "aliases.json: {} is version {}, which {}"
    return {name: told.format(name, registry.aliases()[name], why) for name, why in reasons.items() if why}


def _other(registry: Reader, serving: int) -> str | None:
    """Another version that the history names; a crash may lie between its last line and the alias."""
    changes = history.entries(registry.storage)
    if not changes or serving in (changes[-1]["number"], changes[-1]["before"]):
        return None
    return f"does not serve by history.jsonl: version {changes[-1]['number']} does"


def serving(registry: Reader) -> tuple[int, str | None]:
    """Number of the version that serves, and why it is not the one that the alias names, or None."""
    with registry.storage.glance():
        fault = faults(registry).get("serving")
        return (_last_believed(registry), fault) if fault else (registry.aliases().get("serving") or 0, None)


def rollback_target(registry: Reader) -> int:
    """Number of the version that served before, or 0 where that may not serve again."""
    number = registry.aliases().get("previous") or 0
    return 0 if objection(registry, number) else number


def _last_believed(registry: Reader) -> int:
    """The version that served last, by the history alone, of those to which a roll-back may go."""
    proven = [n for n in registry.numbers() if registry.verdict(n).get("proof") in STANDS]
    for number in reversed(history.served(registry.storage, proven, None)):
        if number in proven and not registry.is_withdrawn(number) and registry.has_graph(number):
            return number
    return 0
