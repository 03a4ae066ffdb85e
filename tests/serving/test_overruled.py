"""`serving` in the registry differs from what serves: somebody's decision, or our own that is not written yet."""

import pytest

from tests.rollout.test_promoter import World
from tta_agent.core.errors import StoreError
from tta_agent.core.types import GateResult
from tta_agent.registry.registry import ModelRegistry
from tta_agent.registry.retry_queue import RetryQueue

BAD = GateResult("reverse", 30.0, 20.0, "fail", "labels say it is worse")


@pytest.fixture
def world(tmp_path, template):
    """Version 1 serves, certified; the registry is asked again after 30 s."""
    found = World(tmp_path, template)
    assert found.swap() == 1
    found.served.backlog = RetryQueue(30.0, clock=lambda: found.now_s)
    return found


class Away:
    """A change to the registry that fails while the store is away."""

    def __init__(self):
        self.away, self.done = True, []

    def __call__(self):
        if self.away:
            raise StoreError("the store is away")
        self.done.append("ours")


def theirs(world, number):
    """A command of another process."""
    ModelRegistry(world.folder / "versions").serve(number, by="mia", reason="because")


def test_a_foreign_decision_is_followed(world):
    theirs(world, 0)
    assert world.served.overruled()
    assert world.served.version.number == 0
    assert not world.served.overruled()


def test_a_foreign_decision_waits_until_our_own_writes_are_done(world):
    ours = Away()
    world.served.backlog.write(ours)
    theirs(world, 0)
    for _ in range(3):
        assert not world.served.overruled()
        world.now_s += 31
    assert world.served.version.number == 1 and not ours.done
    ours.away = False
    assert world.served.overruled()
    assert (world.served.version.number, ours.done) == (0, ["ours"])


def test_our_own_rollback_that_is_not_written_yet_is_not_taken_for_a_foreign_decision(world, monkeypatch):
    """The registry still says 1 while 0 serves: following it would put a version back that was found to be wrong."""
    away = Away()
    with monkeypatch.context() as store:
        store.setattr(world.registry, "take_back", lambda *_, **__: away())
        assert world.served.take_back(world.served.source, BAD, "agent")
        assert world.registry.aliases()["serving"] == 1
        world.now_s += 31
        assert not world.served.overruled()
        assert world.pair.current()[0] == 0 == world.served.version.number
        away.away = False
        world.now_s += 31
        assert not world.served.overruled()
    assert away.done and world.registry.aliases()["serving"] == 0
    assert world.pair.current()[0] == 0
