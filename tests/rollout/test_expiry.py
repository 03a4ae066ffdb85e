"""A guarded version is taken back when its time is over: through promotion, monitor, registry and a restart."""

import pytest

from tests.rollout.test_promoter import World

TTL_S = 100.0


def guarded(folder, template, proof="guarded"):
    """A world in which a version of that proof has just come into service."""
    world = World(folder, template, guarded_ttl_s=TTL_S)
    world.proof.proof = proof
    assert world.swap() == 1
    assert world.registry.get(1).proof == proof
    return world


def later(world, seconds):
    """The version that serves after more records at a later time, and the last event."""
    world.now_s += seconds
    world.records(4)
    return world.pair.current()[0], world.journal.read_events()[-1]


def test_a_guarded_version_is_taken_back_when_its_time_is_over(tmp_path, template):
    world = guarded(tmp_path, template)
    assert later(world, TTL_S - 1)[0] == 1
    serving, event = later(world, 1)
    assert serving == 0 == world.registry.aliases()["serving"]
    assert (event["event"], event["finding"]["gate"], event["before"]) == ("rollback", "expiry", 1)
    assert world.registry.is_withdrawn(1) and world.again


def test_a_certified_version_stays(tmp_path, template):
    world = guarded(tmp_path, template, proof="certified")
    assert later(world, 100 * TTL_S)[0] == 1


@pytest.mark.parametrize("when", ["before the swap", "after it"])
def test_it_ends_in_time_after_a_restart_too(tmp_path, template, when):
    """The end stands in the checkpoint, and in the registry for a swap that came after it."""
    world = World(tmp_path, template, guarded_ttl_s=TTL_S)
    state = world.rollout.state_dict()
    world = guarded(tmp_path, template)
    if when == "after it":
        state = world.rollout.state_dict()
    again = World(tmp_path, template, guarded_ttl_s=TTL_S)
    again.now_s = world.now_s
    assert again.rollout.load_state_dict(state)
    assert later(again, TTL_S - 1)[0] == 1
    assert later(again, 1)[0] == 0
