"""A candidate of few records makes room for the next one while no label has come, where labels come on request."""

from __future__ import annotations

import pytest

from tests.rollout.test_promoter import Wishes, World, teaching
from tta_agent.core.errors import RegistryError
from tta_agent.evaluation.recent import RecentRecords


@pytest.fixture
def world(tmp_path, template):
    made = World(tmp_path, template)
    made.wanted.requests = Wishes()
    made.queue.recent = RecentRecords(10**6)
    return made


def running(world):
    return world.queue.running.version.number


def test_the_next_one_takes_its_place_at_its_level_with_the_labels_that_were_requested_for_it(world):
    names, x = world.records()
    world.propose(1, early=True)
    first = world.queue.running
    world.wanted.requests.heard.clear()
    world.propose(2)
    second = world.queue.running
    assert (running(world), world.registry.verdict(1)["outcome"]) == (2, "superseded")
    assert second.facts.alpha == first.facts.alpha
    more = sum(one != other for _, one, other in world.wanted.requests.heard)
    assert first.requested > 0 and second.requested == first.requested + more
    assert not world.queue.unsettled, "no other one may come soon"
    world.label(names, world.answers(2, x))
    assert second.pairs.labels == 20 == world.promoter.labels_used
    world.propose(3)
    assert running(world) == 2


def test_it_stays_once_a_label_has_come(world):
    names, x = world.records()
    world.propose(1, early=True)
    world.label(names[:1], world.answers(0, x)[:1])
    world.propose(2)
    assert running(world) == 1


def test_it_stays_where_most_labels_come_unasked(world):
    """Four in five of them would be of records that have taught its successor."""
    world.label([f"somebody {i}" for i in range(3)], [0, 0, 0])
    world.propose(1, early=True)
    world.propose(2)
    assert running(world) == 1
    names, x = world.records()  # asked about
    world.label(names[:3], world.answers(0, x)[:3])
    assert world.promoter._on_request()


def test_it_stays_where_nobody_is_asked(world):
    world.wanted.requests = None
    world.propose(1, early=True)
    world.propose(2)
    assert running(world) == 1


def test_it_stays_while_it_waits_for_approval(tmp_path, template):
    world = World(tmp_path, template, mode="ask")
    world.wanted.requests = Wishes()
    world.propose(1, early=True)
    world.proof.verdict = "pass"
    world.records()
    assert world.queue.running.held_by == "approval"
    world.propose(2)
    assert running(world) == 1


def test_it_stays_where_the_next_one_cannot_be_stored(world, monkeypatch):
    world.propose(1, early=True)

    def full(*_):
        raise RegistryError("the volume is full")

    monkeypatch.setattr(world.registry, "add", full)
    world.propose(2)
    assert running(world) == 1


def test_labels_of_its_own_records_are_requested_of_those_that_count_for_the_next_one_too(world):
    world.propose(1, early=True)
    world.wanted.requests.heard.clear()
    teaching(world, 20)
    assert not world.wanted.requests.heard
    held, _ = world.records()
    assert [name for name, _, _ in world.wanted.requests.heard] == held
    world.propose(2)
    world.wanted.requests.heard.clear()
    taught, _ = teaching(world, 20)
    assert [name for name, _, _ in world.wanted.requests.heard] == taught


def test_it_makes_room_after_a_restart(tmp_path, template, world):
    world.label(["somebody"], [0])
    world.propose(1, early=True)
    again = World(tmp_path, template)
    again.wanted.requests = Wishes()
    saved = world.rollout.state_dict()
    assert again.rollout.load_state_dict({**saved, "promoter": {**saved["promoter"], "asked": []}})
    again.propose(2)
    assert running(again) == 2
    third = World(tmp_path, template)
    third.wanted.requests = Wishes()
    assert third.rollout.load_state_dict(saved) and not third.promoter._on_request()


def test_a_label_that_counts_for_one_candidate_after_the_other_is_counted_once(world):
    names, x = world.records()
    world.propose(1)
    world.label(names[:5], world.answers(0, x)[:5])
    world.queue.end("expired")
    world.propose(2)
    assert (world.queue.running.pairs.labels, world.promoter.labels_used) == (5, 5)
    world.label(names[5:7], world.answers(0, x)[5:7])
    assert (world.queue.running.pairs.labels, world.promoter.labels_used) == (7, 7)
