"""Table of the versions of a registry, one row each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tta_agent.core.types import PROVING

if TYPE_CHECKING:
    from tta_agent.registry.reader import Reader


def rows(registry: Reader) -> list[dict[str, Any]]:
    """Rows of all versions: number, alias, parent, outcome, proof, author, reason."""
    names: dict[int | None, list[str]] = {}
    for name, number in registry.aliases().items():
        names.setdefault(number, []).append(name)
    for number in registry.pinned():
        names.setdefault(number, []).append("pinned")
    return [_row(registry, number, ", ".join(names.get(number, []))) for number in registry.numbers()]


def _row(registry: Reader, number: int, alias: str) -> dict[str, Any]:
    verdict, withdrawn = registry.verdict(number), registry.withdrawal(number)
    reason = telling(verdict.get("findings", []), verdict.get("proof"))
    return {
        "version": number,
        "alias": alias,
        "parent": registry.manifest(number)["parent"],
        "outcome": "taken back" if withdrawn else verdict.get("outcome", "under test"),
        "proof": verdict.get("proof"),
        "by": (withdrawn or verdict).get("by"),
        "reason": withdrawn.get("reason", reason),
    }


def telling(findings: Sequence[Mapping[str, Any]], proof: str | None) -> str | None:
    """Reason of the finding that decided: of the first gate that failed, else of the gate of the proof.

    A proof may come from somebody else's gate: then the last gate that passed decided. Without a proof our gates of
    proofs say what is missing.
    """
    gates = PROVING.get(proof or "") or tuple(gate for names in PROVING.values() for gate in names)
    failed = [f for f in findings if f["verdict"] == "fail"]
    proving = [f for f in findings if f["gate"] in gates]
    passed = [f for f in findings if f["verdict"] == "pass"] if proof in PROVING else []
    order = [*failed, *proving, *passed[-1:], *findings[-1:]]
    return str(order[0]["reason"]) if order else None
