"""Decision of all gates: one failed veto rejects; then the best kind of proof that is complete.

A veto is one of two kinds. *Safety* (the graph is broken, the optimiser failed) always rejects. *Plausibility* (the
answers look like those of a model that has collapsed) is a guess about accuracy, made without labels: it rejects
where no label can decide, and gives way where labels have decided. They have when the certified proof is complete and
the guard by labels has shown every class that matters unharmed. While labels arrive and have not decided yet, an
implausible candidate waits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tta_agent.core.errors import ConfigError
from tta_agent.core.evidence import Evidence
from tta_agent.core.protocols import Gate
from tta_agent.core.types import GateResult, Proof
from tta_agent.evaluation.label_guard import Doubt, LabelGuard

KINDS: tuple[Proof, ...] = ("certified", "rehearsed", "guarded")  # the best one first
Judged = tuple[Gate, GateResult]


@dataclass(frozen=True, slots=True)
class Decision:
    """Outcome of all gates together. `proof` is "none" unless the outcome is `proven`."""

    outcome: Literal["proven", "rejected", "open"]
    proof: Proof
    results: tuple[GateResult, ...]


class GateSet:
    """The gates, in the order of the settings.

    Args:
        guard: by labels; without one no plausibility finding gives way.

    Raises:
        ConfigError: none of them is a proof: nothing could ever be promoted.
    """

    def __init__(self, gates: Sequence[Gate], guard: LabelGuard | None = None) -> None:
        self._gates, self._guard = tuple(gates), guard
        if not any(kind_of(gate) for gate in gates):
            raise ConfigError(
                "TTA_GATE__GATES names no proof, so no candidate could ever serve; "
                "add certificate (labels), rehearsed (`tta-agent rehearse`) or guarded"
            )

    def decide(self, evidence: Evidence, *, labels_come: bool = False) -> Decision:
        """Ask every gate.

        Args:
            labels_come: the stream has labels, though there may be none yet of records of this evaluation.
        """
        judged = [(gate, gate.judge(evidence)) for gate in self._gates]
        doubted = any(_is_doubt(one) for one in judged)
        guarding = self._guard.judge(evidence, _doubt_of(judged)) if self._guard else ()
        firm = {result.verdict for gate, result in judged if not (kind_of(gate) or _is_doubt((gate, result)))}
        guard = {result.verdict for result in guarding}
        proofs = {kind: _verdicts(judged, kind) for kind in KINDS}
        complete = [kind for kind in KINDS if proofs[kind] == {"pass"}]
        certified = "certified" in complete
        if doubted or not guard <= {"pass"}:  # a proof without labels is no answer to a doubt
            labels_decide = certified and guard == {"pass"}
            complete = ["certified"] if labels_decide else [] if doubted else complete[certified:]
        hopeless = all(verdicts <= {"fail"} for verdicts in proofs.values())
        waits = (
            bool(complete)
            or not doubted
            or (bool(proofs["certified"]) and self._may_wait(evidence, labels_come))
        )
        results = *(result for _, result in judged), *guarding
        if "fail" in firm | guard or hopeless or not waits:
            return Decision("rejected", "none", results)
        results = *(_set_aside(one, bool(complete)) for one in judged), *guarding
        if firm <= {"pass"} and complete:
            return Decision("proven", complete[0], results)
        return Decision("open", "none", results)

    def _may_wait(self, evidence: Evidence, labels_come: bool) -> bool:
        """Whether labels may still decide for an implausible candidate."""
        known = labels_come or evidence.labels > 0
        return self._guard is not None and known and not leads_by(evidence.losses, evidence.wins)


def leads_by(wins: int, losses: int) -> bool:
    """Whether more were won than lost, by a standard error."""
    return wins - losses > math.sqrt(wins + losses)


def kind_of(gate: Gate) -> Proof | None:
    """The kind of proof that a gate is, or None for a veto."""
    return getattr(gate, "proof", None)


def is_plausibility(gate: Gate) -> bool:
    """Whether a veto is a guess that labels outrank; one that does not say so rejects always."""
    return getattr(gate, "veto", "safety") == "plausibility"


def _is_doubt(judged: Judged) -> bool:
    gate, result = judged
    return is_plausibility(gate) and result.verdict == "fail"


def _doubt_of(judged: Iterable[Judged]) -> Doubt:
    doubting = [gate for gate, result in judged if _is_doubt((gate, result))]
    if any(getattr(gate, "of_classes", True) for gate in doubting):
        return "classes"
    return "some" if doubting else "none"


def _verdicts(judged: Iterable[Judged], kind: Proof) -> set[str]:
    return {result.verdict for gate, result in judged if kind_of(gate) == kind}


def _set_aside(judged: Judged, decided: bool) -> GateResult:
    """A failed plausibility as a warning where labels have decided, as inconclusive where they will."""
    if not _is_doubt(judged):
        return judged[1]
    if decided:
        return replace(judged[1], reason=f"labels outrank it: {judged[1].reason}")
    return replace(judged[1], verdict="inconclusive", reason=f"labels will decide: {judged[1].reason}")
