"""The order of a swap, and what a failing server does to the loop: nothing."""

import time

import numpy as np
import pytest

from tests.parts import serving
from tests.pipeline.test_agent import Running, World, until
from tta_agent.core.errors import SwapError
from tta_agent.core.types import Golden, Version
from tta_agent.models.ort_sessions import open_session
from tta_agent.serving.swap import LARGE_BYTES, bring_up, golden

GOLDEN = Golden(np.zeros((1, 1)), np.zeros((1, 1)))


class Server:
    """A driver that fails at one step."""

    def __init__(self, fails_at: str = "", live: int = 0) -> None:
        self.fails_at, self.calls, self._live, self._before = fails_at, [], live, live

    def _step(self, name):
        self.calls.append(name)
        if name == self.fails_at:
            raise SwapError(f"{name} failed")

    def probe(self):
        self._step("probe")

    def publish(self, version, golden):
        self._step("publish")

    def activate(self, version):
        self._step("activate")
        self._before, self._live = self._live, version.number

    def verify(self, golden):
        self._step("verify")

    def live(self):
        return self._live

    def rollback(self):
        self._step("rollback")
        self._live = self._before

    def close(self):
        self._step("close")


@pytest.mark.parametrize(
    ("fails_at", "calls", "live"),
    [
        ("", ["publish", "activate", "verify"], 1),
        ("publish", ["publish"], 0),
        ("activate", ["publish", "activate"], 0),
        ("verify", ["publish", "activate", "verify", "rollback"], 0),
    ],
)
def test_whatever_fails_the_old_version_is_live(tmp_path, fails_at, calls, live):
    server = Server(fails_at)
    version = Version(1, "", tmp_path, "none")
    if fails_at:
        with pytest.raises(SwapError):
            bring_up(server, version, GOLDEN)
    else:
        bring_up(server, version, GOLDEN)
    assert (server.calls, server.live()) == (calls, live)


@pytest.mark.slow
@pytest.mark.parametrize("fails_at", ["publish", "verify"])
def test_the_loop_outlives_a_server_that_refuses(tmp_path, monkeypatch, fails_at):
    world = World(tmp_path, monkeypatch, TTA_SCHEDULE__COOLDOWN_S="3600")
    server = Server(fails_at)
    agent = world.agent(server)
    with Running(agent):
        until(lambda: world.events(agent, "swap_failed"), lambda: (world.send(64), time.sleep(0.2)))
        rounds = agent.learner.adaptation.rounds
        until(lambda: agent.learner.adaptation.rounds > rounds + 3, lambda: (world.send(64), time.sleep(0.1)))
    assert server.live() == world.registry.aliases()["serving"] == agent.rollout.served.version.number == 0
    assert world.events(agent, "verdict")[-1]["outcome"] == "swap failed"
    assert not agent.rollout.promoter.wants_candidate()


def test_after_a_crash_in_the_middle_of_a_swap_the_registry_wins(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch)
    server = Server(live=7)
    world.agent(server).close()
    assert server.live() == 0


def test_a_large_graph_is_asked_for_one_answer_on_any_machine():
    session, x = open_session(serving.graph_bytes(0)), serving.samples(4)
    for size, count in ((0, 2), (LARGE_BYTES - 1, 2), (LARGE_BYTES, 1)):
        batch = golden(session, x, size)
        assert np.array_equal(batch.x, x[:count])
        assert np.allclose(batch.logits, serving.answers(x[:count], 0), atol=1e-3)
