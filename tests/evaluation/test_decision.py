"""Decision of all gates."""

import numpy as np
import pytest

from tta_agent.core.errors import ConfigError
from tta_agent.core.evidence import Evidence
from tta_agent.core.types import GateResult
from tta_agent.evaluation.decision import GateSet

NOTHING = Evidence(np.zeros((0, 2)), np.zeros((0, 2)), 0, 0, 0, 0.01)


class Says:
    def __init__(self, verdict, proof=None):
        self.verdict, self.proof = verdict, proof

    def judge(self, evidence):
        return GateResult("test", 0.0, 0.0, self.verdict, "")


def veto(verdict):
    return Says(verdict)


def proof(kind, verdict):
    return Says(verdict, kind)


P, F, I = "pass", "fail", "inconclusive"  # noqa: E741


@pytest.mark.parametrize(
    ("gates", "outcome", "kind"),
    [
        ([veto(P), proof("certified", P)], "proven", "certified"),
        ([veto(F), proof("certified", P)], "rejected", "none"),
        ([veto(I), proof("certified", P)], "open", "none"),
        ([veto(P), proof("certified", I)], "open", "none"),
        ([veto(P), proof("certified", I), proof("rehearsed", P)], "proven", "rehearsed"),
        ([veto(P), proof("guarded", P), proof("certified", P)], "proven", "certified"),
        ([veto(P), proof("certified", P), proof("certified", I)], "open", "none"),
        ([veto(P), proof("certified", I), proof("rehearsed", F)], "open", "none"),
        ([veto(P), proof("certified", F), proof("rehearsed", F)], "rejected", "none"),
        ([proof("guarded", P)], "proven", "guarded"),
    ],
)
def test_vetoes_reject_and_the_best_complete_proof_promotes(gates, outcome, kind):
    decision = GateSet(gates).decide(NOTHING)
    assert (decision.outcome, decision.proof) == (outcome, kind)
    assert len(decision.results) == len(gates)


def test_without_any_proof_nothing_could_serve_and_nothing_starts():
    with pytest.raises(ConfigError, match="names no proof"):
        GateSet([veto(P)])
