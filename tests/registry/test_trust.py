"""An alias is believed where verdicts and history allow it: whoever edits aliases.json decides nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.registry.test_registry import GOLDEN, graph
from tests.rollout.test_promoter import World
from tta_agent.assembly import server as embedded
from tta_agent.control.commands import Command
from tta_agent.core.types import GateResult
from tta_agent.registry import history, trust
from tta_agent.registry.registry import ModelRegistry
from tta_agent.settings.schema import Settings
from tta_agent.stream.router import RoutedRecords
from tta_agent.testing import tiny_net

GOOD = GateResult("certificate", 120.0, 100.0, "pass", "certified")


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    """Versions 1 and 2 were proven and served, 2 serves; 3 was refused, 4 is under test."""
    made = ModelRegistry(tmp_path / "versions")
    made.ensure_source("f", lambda: (graph(), GOLDEN))
    for number in range(1, 5):
        made.add(graph(float(number)), made.get(0), {})
        if number < 3:
            made.conclude(number, "certified", "certified", [GOOD])
            made.serve(number)
    made.conclude(3, "expired", "none", [])
    return made


def point(registry: ModelRegistry, **aliases: int) -> None:
    """Edit the file, as anybody may."""
    path = registry.folder / "aliases.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **aliases}))


def forge(registry: ModelRegistry, number: int) -> None:
    """Write a verdict that says that a version was proven."""
    verdict = {"outcome": "certified", "proof": "certified", "by": "agent", "time": 0.0, "findings": []}
    (registry.folder / f"{number:06d}" / "verdict.json").write_text(json.dumps(verdict))


def test_what_the_registry_has_done_itself_is_believed(registry: ModelRegistry) -> None:
    assert trust.faults(registry) == {}
    assert trust.serving(registry) == (2, None)
    assert trust.rollback_target(registry) == 1


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (3, "was never proven"),
        (4, "is still under test"),
        (9, "does not exist"),
        (0, "by history.jsonl: version 2 does"),
    ],
)
def test_an_edited_alias_is_found_and_not_followed(registry: ModelRegistry, number: int, why: str) -> None:
    point(registry, serving=number)
    assert why in trust.faults(registry)["serving"]
    at, fault = trust.serving(registry)
    assert at == 2 and why in (fault or "")


def test_a_forged_verdict_is_not_enough(registry: ModelRegistry) -> None:
    forge(registry, 4)
    point(registry, serving=4)
    assert "version 2 does" in trust.faults(registry)["serving"]
    assert trust.serving(registry)[0] == 2


def test_an_alias_to_a_version_that_was_taken_back_is_not_followed(registry: ModelRegistry) -> None:
    registry.take_back(2, "it had become worse")
    registry.serve(1)
    assert trust.faults(registry) == {}, "previous may name a version that was taken back"
    assert trust.rollback_target(registry) == 0
    point(registry, serving=2)
    assert "was taken back (it had become worse)" in trust.faults(registry)["serving"]
    assert trust.serving(registry)[0] == 1


def test_a_version_that_was_forced_may_serve(registry: ModelRegistry) -> None:
    registry.conclude(4, "forced", "none", [], by="command")
    registry.serve(4, by="command", reason="promoted by force")
    assert trust.serving(registry) == (4, None)
    registry.take_back(4, "a mistake", by="command")
    assert trust.serving(registry)[0] == 2
    registry.serve(1)
    registry.serve(4, by="command", reason="promoted by force")
    assert trust.serving(registry) == (4, None), "forced again after it was taken back"


def test_an_edited_previous_is_found_and_is_no_place_to_go_back_to(registry: ModelRegistry) -> None:
    point(registry, previous=4)
    assert "previous is version 4, which is still under test" in trust.faults(registry)["previous"]
    assert trust.rollback_target(registry) == 0


def test_a_registry_older_than_the_history_is_believed(registry: ModelRegistry) -> None:
    (registry.folder / history.HISTORY).unlink()
    assert trust.serving(registry) == (2, None)
    point(registry, serving=4)
    assert trust.serving(registry)[0] == 2


def test_a_crash_between_history_and_alias_is_none(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge(registry, 4)

    def crash(aliases: object) -> None:
        raise OSError("no power")

    monkeypatch.setattr(registry, "_point", crash)
    with pytest.raises(OSError, match="no power"):
        registry.serve(4)
    monkeypatch.undo()
    assert trust.serving(registry) == (2, None)
    registry.serve(4)
    assert trust.serving(registry) == (4, None)
    assert registry.aliases()["previous"] == 2
    changes = [(change["number"], change["before"]) for change in history.entries(registry.storage)]
    assert changes == [(1, 0), (2, 1), (4, 2)], "the change stands there once"


def test_serving_again_what_the_history_knows_forgets_an_edited_alias(registry: ModelRegistry) -> None:
    point(registry, serving=4)
    registry.serve(2)
    assert (registry.aliases()["serving"], registry.aliases()["previous"]) == (2, 1)
    assert len(history.entries(registry.storage)) == 2


@pytest.fixture
def world(tmp_path: Path, template: object) -> World:
    return World(tmp_path, template)


def look(world: World) -> bool:
    world.now_s += 6
    return bool(world.rollout.on_records(RoutedRecords()))


def test_the_agent_starts_with_the_last_proven_version(world: World) -> None:
    world.swap(1)
    world.propose(2)
    point(world.registry, serving=2)
    again = World(world.folder, world.template)
    assert again.served.version.number == 1
    assert again.registry.aliases()["serving"] == 1
    event = next(event for event in again.journal.read_events() if event["event"] == "alias_refused")
    assert event["version"] == 1 and "version 2, which is still under test" in event["reason"]
    assert not look(again)


def test_a_running_agent_does_not_follow_an_edited_alias_and_loses_nothing(world: World) -> None:
    world.swap(1)
    world.propose(2)
    running = world.queue.running
    point(world.registry, serving=2)
    assert not look(world)
    assert world.served.version.number == world.registry.aliases()["serving"] == 1
    assert world.queue.running is running
    assert world.names()[-1] == "alias_refused"


def test_a_running_agent_follows_a_command(world: World) -> None:
    world.swap(1)
    graph = world.template.compose(tiny_net("batch", seed=3))
    number = world.registry.add(graph, world.registry.get(0), {}).number
    world.registry.conclude(number, "forced", "none", [], by="command")
    world.registry.serve(number, by="command", reason="promoted by force")
    assert look(world)
    assert world.served.version.number == number and "alias_refused" not in world.names()


@pytest.mark.parametrize("number", [None, 2])
def test_a_roll_back_by_command_leads_to_no_unproven_version(world: World, number: int | None) -> None:
    world.swap(1)
    world.propose(2)
    point(world.registry, previous=2)
    world.inbox.put(Command("rollback", number, "mia", ""))
    look(world)
    assert world.served.version.number == (0 if number is None else 1)
    assert ("rollback" if number is None else "rollback_refused") in world.names()


def test_the_bake_of_a_restart_has_no_unproven_target(world: World) -> None:
    state = world.rollout.state_dict()
    world.swap(1)
    world.propose(2)
    point(world.registry, previous=2)
    again = World(world.folder, world.template)
    again.rollout.load_state_dict(state)
    assert (again.monitor.bake.version.number, again.monitor.bake.baseline.number) == (1, 0)


def test_the_server_starts_with_the_last_proven_version(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    point(registry, serving=4)
    loaded = []
    monkeypatch.setattr(embedded, "make_app", lambda name, pair, *_, **__: loaded.append(pair.current()[0]))
    monkeypatch.setattr(embedded, "serve", lambda *_: None)
    embedded.run(Settings(store={"path": registry.folder.parent}, serve={"tap": False}))  # type: ignore[arg-type]
    assert loaded == [2]
    assert (
        "serving is version 4, which is still under test; serving version 2, the last proven one"
        in caplog.text
    )
