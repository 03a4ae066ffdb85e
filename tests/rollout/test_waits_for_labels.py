"""A doubted candidate waits where labels come, and is rejected where none do."""

from __future__ import annotations

from tests.rollout.test_promoter import World
from tta_agent.evaluation.decision import GateSet
from tta_agent.evaluation.label_guard import LabelGuard


def test_a_doubted_candidate_is_rejected_until_labels_have_come_and_then_waits_for_as_long_as_its_patience(
    tmp_path, template
):
    world = World(tmp_path, template, patience=100)
    world.veto.veto, world.veto.verdict = "plausibility", "fail"
    world.promoter._gates = GateSet([world.veto, world.proof], LabelGuard())
    world.propose(1)
    names, x = world.records()
    assert world.registry.verdict(1)["outcome"] == "rejected"
    world.label(names[:1], world.answers(0, x)[:1])  # of a record without a candidate: but labels come
    world.propose(2)
    world.records()
    assert world.queue.running.version.number == 2
    assert world.queue.running.decision.results[0].verdict == "inconclusive"
    for _ in range(30):
        world.records()
    assert world.registry.verdict(2)["outcome"] == "expired"
