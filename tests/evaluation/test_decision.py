"""Decision of all gates."""

import numpy as np
import pytest

from tta_agent.core import plugins
from tta_agent.core.errors import ConfigError
from tta_agent.core.evidence import Evidence, LabelledPair
from tta_agent.core.types import GateResult
from tta_agent.evaluation.decision import GateSet, is_plausibility, kind_of
from tta_agent.evaluation.label_guard import LabelGuard
from tta_policies.gates.certificate import Certificate

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


def labelled(wins, losses, kept=40, taken=0):
    """Of two classes: wins on the first, losses on it, `kept` of the second known to both, `taken` of it lost."""
    rows = [(0, 1, 0)] * wins + [(0, 0, 1)] * losses + [(1, 1, 1)] * kept + [(1, 1, 0)] * taken
    judged = tuple(LabelledPair(*row) for row in rows)
    serving, candidate = (np.eye(2)[[row[side] for row in rows] or []] for side in (1, 2))
    return Evidence(serving, candidate, wins, losses + taken, len(rows), 0.01, judged=judged)


class Doubts(Says):
    veto = "plausibility"


def gates(*more):
    return GateSet([Doubts(F), Says(P), Certificate(), *more], LabelGuard())


def test_labels_that_have_decided_outrank_a_doubt_which_stands_as_a_warning():
    decision = gates().decide(labelled(30, 3))
    assert (decision.outcome, decision.proof) == ("proven", "certified")
    doubt = decision.results[0]
    assert doubt.verdict == "fail"
    assert doubt.reason.startswith("labels outrank it")
    assert [result.gate for result in decision.results[-2:]] == ["worst_class", "label_calibration"]


@pytest.mark.parametrize(
    ("evidence", "labels_come", "outcome"),
    [
        (labelled(0, 0, 0), False, "rejected"),  # no label will decide
        (labelled(0, 0, 0), True, "open"),  # they come, though none yet
        (labelled(3, 1, 0), False, "open"),  # some have come: they come
        (labelled(1, 9, 0), True, "rejected"),  # they lean against it
        (labelled(30, 3, 2), True, "open"),  # too few of the second class
        (labelled(60, 3, 3, taken=12), True, "rejected"),  # which is lost
    ],
)
def test_a_doubt_rejects_where_no_label_can_decide_and_waits_for_those_that_come(
    evidence, labels_come, outcome
):
    decision = gates().decide(evidence, labels_come=labels_come)
    assert decision.outcome == outcome
    if outcome == "open":
        assert decision.results[0].verdict == "inconclusive"
        assert decision.results[0].reason.startswith("labels will decide")


def test_a_class_that_is_lost_rejects_where_nothing_is_doubted_either():
    told = GateSet([Says(P), Certificate()], LabelGuard())
    assert told.decide(labelled(60, 3, 40)).outcome == "proven"
    assert told.decide(labelled(60, 3, 3, taken=12)).outcome == "rejected"


def test_a_proof_without_labels_is_no_answer_to_a_doubt_and_needs_none_where_there_is_no_doubt():
    rehearsed = proof("rehearsed", P)
    assert gates(rehearsed).decide(labelled(3, 1, 0)).outcome == "open"
    assert gates(rehearsed).decide(labelled(0, 0, 0)).outcome == "rejected"
    alone = GateSet([Doubts(F), rehearsed], LabelGuard())  # no proof by labels is asked for
    assert alone.decide(labelled(30, 3), labels_come=True).outcome == "rejected"
    calm = GateSet([Doubts(P), Certificate(), rehearsed], LabelGuard())
    assert calm.decide(labelled(30, 3)).proof == "certified"
    assert calm.decide(labelled(3, 1, 5)).proof == "rehearsed"


def test_safety_and_gates_that_do_not_say_what_they_are_reject_whatever_labels_say():
    safe = Says(F)
    safe.veto = "safety"
    for veto_ in (safe, Says(F)):
        assert GateSet([veto_, Certificate()], LabelGuard()).decide(labelled(30, 3)).outcome == "rejected"
    assert GateSet([Doubts(F), Certificate()]).decide(labelled(30, 3)).outcome == "rejected"  # no guard


def test_the_gates_say_what_they_are():
    known = {name: plugins.load("gates", name) for name in plugins.available("gates")}
    doubts = {name for name, gate in known.items() if is_plausibility(gate)}
    assert doubts == {
        "disagreement",
        "collapse",
        "histogram",
        "concentration",
        "flips",
        "calibration",
        "rank",
    }
    safety = {name for name, gate in known.items() if getattr(gate, "veto", "") == "safety"}
    assert safety == {name for name in set(known) - doubts if not kind_of(known[name])}
