"""Decision of all gates: one failed veto rejects; then the best kind of proof that is complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tta_agent.core.errors import ConfigError
from tta_agent.core.evidence import Evidence
from tta_agent.core.protocols import Gate
from tta_agent.core.types import GateResult, Proof

KINDS: tuple[Proof, ...] = ("certified", "rehearsed", "guarded")  # the best one first


@dataclass(frozen=True, slots=True)
class Decision:
    """Outcome of all gates together. `proof` is "none" unless the outcome is `proven`."""

    outcome: Literal["proven", "rejected", "open"]
    proof: Proof
    results: tuple[GateResult, ...]


class GateSet:
    """The gates, in the order of the settings.

    Raises:
        ConfigError: none of them is a proof: nothing could ever be promoted.
    """

    def __init__(self, gates: Sequence[Gate]) -> None:
        self._gates = tuple(gates)
        if not any(kind_of(gate) for gate in gates):
            raise ConfigError(
                "TTA_GATE__GATES names no proof, so no candidate could ever serve; "
                "add certificate (labels), rehearsed (`tta-agent rehearse`) or guarded"
            )

    def decide(self, evidence: Evidence) -> Decision:
        """Ask every gate."""
        results = tuple(gate.judge(evidence) for gate in self._gates)
        vetoes = {f.verdict for gate, f in zip(self._gates, results, strict=True) if not kind_of(gate)}
        proofs = {kind: self._of_kind(kind, results) for kind in KINDS}
        if "fail" in vetoes or all(verdicts <= {"fail"} for verdicts in proofs.values()):
            return Decision("rejected", "none", results)
        proven = next((kind for kind, verdicts in proofs.items() if verdicts == {"pass"}), None)
        if vetoes <= {"pass"} and proven:
            return Decision("proven", proven, results)
        return Decision("open", "none", results)

    def _of_kind(self, kind: Proof, results: Sequence[GateResult]) -> set[str]:
        return {f.verdict for gate, f in zip(self._gates, results, strict=True) if kind_of(gate) == kind}


def kind_of(gate: Gate) -> Proof | None:
    """The kind of proof that a gate is, or None for a veto."""
    return getattr(gate, "proof", None)
