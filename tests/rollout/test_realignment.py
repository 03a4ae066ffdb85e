"""A server that answers with another version is corrected; only wrong answers of the version itself take it back."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.parts.serving import eventually
from tests.rollout.test_promoter import World
from tta_agent.core.errors import SwapError
from tta_agent.core.types import ServerInfo
from tta_agent.models.onnx_export import GraphTemplate
from tta_agent.models.ort_sessions import open_session
from tta_agent.serving.drivers.oip import OipDriver
from tta_agent.stream.router import RoutedRecords
from tta_agent.testing import tiny_net

FOREIGN = 9


@pytest.fixture
def world(tmp_path: Path, template: GraphTemplate) -> World:
    return World(tmp_path, template)


def look(world: World, after_s: float = 6.0) -> bool:
    """One look at the server; whether adaptation starts over."""
    world.now_s += after_s
    return bool(world.rollout.on_records(RoutedRecords()))


def foreign_load(world: World) -> None:
    """A stranger makes another version live, unless it is."""
    if world.pair.current()[0] == FOREIGN:
        return
    graph = world.template.compose(tiny_net("batch", seed=5))
    world.pair.stage(FOREIGN, open_session(graph))
    world.pair.switch(FOREIGN)


class Wrong:
    """A session that answers otherwise than its graph."""

    def __init__(self, session):
        self.get_inputs, self.get_outputs, self._run = session.get_inputs, session.get_outputs, session.run
        self.off = 1.0

    def run(self, outputs, feeds):
        return [np.asarray(answer) + self.off for answer in self._run(outputs, feeds)]


def break_live(world: World) -> Wrong:
    """The server goes on with the version that is live, and answers wrongly."""
    number, session = world.pair.current()
    wrong = Wrong(session)
    world.pair.stage(FOREIGN, session)
    world.pair.switch(FOREIGN)
    world.pair.stage(number, wrong)
    world.pair.switch(number)
    return wrong


def test_a_foreign_load_while_a_version_bakes_is_corrected_and_nothing_is_lost(world: World) -> None:
    assert world.swap() == 1
    world.propose(2)
    running, before = world.queue.running, world.monitor.bake
    foreign_load(world)
    assert not look(world)
    assert world.pair.current()[0] == 1 == world.registry.aliases()["serving"]
    assert not world.registry.is_withdrawn(1)
    assert (world.queue.running, world.monitor.bake) == (running, before)
    assert world.names()[-1] == "realigned" and "rollback" not in world.names()
    event = world.journal.read_events()[-1]
    assert (event["version"], event["attempt"]) == (1, 1)
    assert event["reason"] == f"version {FOREIGN} answers instead of version 1"
    assert world.promoter.wants_candidate(), "no cool-down"


def test_a_server_that_goes_back_again_and_again_is_corrected_with_growing_pauses(world: World) -> None:
    world.swap()
    times = []
    for _ in range(1500):
        foreign_load(world)
        corrected = world.names().count("realigned")
        look(world, 5.0)
        if world.names().count("realigned") > corrected:
            times.append(world.now_s)
    pauses = np.diff(times)
    assert pauses[:5].tolist() == [5.0, 10.0, 20.0, 40.0, 80.0]
    assert pauses.max() <= 3600.0 and len(times) <= 13
    assert not world.registry.is_withdrawn(1) and world.registry.aliases()["serving"] == 1
    assert f"version {FOREIGN} answers instead" in world.journal.now()["server"]


def test_after_a_calm_time_the_next_correction_is_a_first_one(world: World) -> None:
    world.swap()
    for _ in range(3):
        foreign_load(world)
        look(world, 60.0)
    look(world, 6.0)
    assert world.journal.now()["server"] is None
    look(world, 100.0)
    foreign_load(world)
    look(world)
    attempts = [event["attempt"] for event in world.journal.read_events() if event["event"] == "realigned"]
    assert attempts == [1, 2, 3, 1]


def test_wrong_answers_of_the_version_itself_take_it_back_but_not_at_once(world: World) -> None:
    world.swap(1)
    assert world.swap(2) == 2
    break_live(world)
    assert not look(world), "it is put back first"
    assert not world.registry.is_withdrawn(2)
    assert any([look(world), look(world)])
    assert world.registry.is_withdrawn(2) and world.pair.current()[0] == 1
    assert world.names()[-1] == "rollback"
    assert "answers otherwise than it should" in world.journal.read_events()[-1]["reason"]


def test_a_wrong_answer_that_passes_is_no_evidence(world: World) -> None:
    world.swap()
    wrong = break_live(world)
    look(world)
    for off in (0.0, 1.0, 0.0, 1.0, 0.0):
        wrong.off = off
        assert not look(world, 20_000.0)
    assert not world.registry.is_withdrawn(1)


def test_wrong_answers_are_looked_at_though_a_stranger_has_made_the_pauses_long(world: World) -> None:
    world.swap()
    for _ in range(12):
        foreign_load(world)
        look(world, 5.0)
    world.pair.switch(1)
    break_live(world)
    assert any(look(world, 5.0) for _ in range(3))
    assert world.registry.is_withdrawn(1)


def test_wrong_answers_of_the_source_take_nothing_back(world: World) -> None:
    world.swap()
    world.registry.serve(0, by="command")
    look(world)
    break_live(world)
    for _ in range(5):
        look(world)
    assert world.registry.aliases()["serving"] == 0 and "rollback" not in world.names()


def test_another_version_that_was_loaded_during_the_check_is_no_evidence(world: World, monkeypatch) -> None:
    world.swap()
    live, answers = world.driver.live, []

    def switched():
        if not answers:
            answers.append(live())
            foreign_load(world)
            return answers[0]
        return live()

    for _ in range(4):
        answers.clear()
        world.pair.switch(1) if world.pair.current()[0] != 1 else None
        monkeypatch.setattr(world.driver, "live", switched)
        assert not look(world, 20_000.0)
        monkeypatch.undo()
    assert not world.registry.is_withdrawn(1) and world.names().count("realigned") == 4


@pytest.mark.parametrize("step", ["live", "verify"])
def test_a_server_that_cannot_be_asked_is_no_evidence(world: World, monkeypatch, step: str) -> None:
    world.swap()

    def away(*_):
        raise SwapError("no route")

    monkeypatch.setattr(world.driver, step, away)
    for _ in range(5):
        assert not look(world)
    assert world.names()[-1] == "swap" and world.registry.aliases()["serving"] == 1


SERVER = """
import sys
from pathlib import Path
from tta_agent.models.ort_sessions import HotSwapSession, open_session
from tta_agent.registry.registry import ModelRegistry
from tta_agent.serving.server.app import make_app, serve
registry = ModelRegistry(Path(sys.argv[1]))
pair = HotSwapSession(0, open_session(registry.get(0).path))
serve(make_app("tiny", pair, registry.get, token=sys.argv[3] or None), port=int(sys.argv[2]))
"""


class Served:
    """The embedded server in a process that always starts at version 0, and the agent's world beside it."""

    def __init__(self, folder: Path, template: GraphTemplate, port: int, token: str) -> None:
        self.world, self.port, self.token = World(folder, template), port, token
        self.url = f"http://127.0.0.1:{port}"
        self.driver = OipDriver(ServerInfo(self.url, "tiny", 20, token=token or None))
        self.world.served._driver = self.driver
        self.start()

    def start(self) -> None:
        where = str(self.world.folder / "versions")
        command = [sys.executable, "-c", SERVER, where, str(self.port), self.token]
        self.process = subprocess.Popen(command)
        eventually(self._lives, 60)

    def _lives(self) -> bool:
        try:
            return httpx.get(f"{self.url}/v2/health/live", trust_env=False).is_success
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def stranger_loads(self, number: int) -> int:
        """Status of a load by somebody without the token."""
        order = {"parameters": {"version": str(number)}}
        return httpx.post(
            f"{self.url}/v2/repository/models/tiny/load", json=order, trust_env=False
        ).status_code


@contextmanager
def served(folder: Path, template: GraphTemplate, token: str = "") -> Iterator[Served]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = Served(folder, template, port, token)
    try:
        yield found
    finally:
        found.stop()
        found.driver.close()


def test_a_real_server_that_a_stranger_or_a_restart_has_moved(
    tmp_path: Path, template: GraphTemplate
) -> None:
    with served(tmp_path, template) as server:
        world = server.world
        world.swap(1)
        assert server.driver.live() == 1
        assert server.stranger_loads(0) == 200
        assert not look(world)
        assert server.driver.live() == 1
        server.stop()
        assert not look(world, 60.0), "a server that is away changes nothing"
        server.start()
        assert server.driver.live() == 0
        assert not look(world, 60.0)
        assert server.driver.live() == 1
        assert world.names().count("realigned") == 2 and "rollback" not in world.names()
        assert not world.registry.is_withdrawn(1) and world.monitor.bake.version.number == 1


def test_a_real_server_with_a_token_obeys_the_agent_alone(tmp_path: Path, template: GraphTemplate) -> None:
    with served(tmp_path, template, "s3cret") as server:
        server.world.swap(1)
        assert server.driver.live() == 1
        assert server.stranger_loads(0) == 401
        assert not look(server.world)
        assert "realigned" not in server.world.names() and server.driver.live() == 1
