"""A replay decides the same again: on a busy machine, and by another clock."""

from __future__ import annotations

import multiprocessing
import time

import pytest

from tests import worlds
from tta_agent.replay.engine import replay
from tta_agent.settings import env

LATE = {"label_rate": 0.5, "label_delay_s": 3.0, "seed": 0}
WALL_CLOCK = {"seconds", "seconds_forward_only", "times_forward"}


def spin():
    """Keep a core busy."""
    while True:
        sum(range(10_000))


@pytest.fixture
def load():
    """More busy processes than there are cores for the replay."""
    crowd = [multiprocessing.get_context("spawn").Process(target=spin, daemon=True) for _ in range(4)]
    for one in crowd:
        one.start()
    yield
    for one in crowd:
        one.terminate()
        one.join()


@pytest.fixture(scope="module")
def shifting(tmp_path_factory):
    return worlds.recording(tmp_path_factory.mktemp("shifting"), clean=300, shifted=1700)


def decided(result):
    """All that a replay says but what a wall clock has measured, at any depth."""
    if isinstance(result, dict):
        return {key: decided(value) for key, value in result.items() if key not in WALL_CLOCK}
    return [decided(value) for value in result] if isinstance(result, list) else result


@pytest.fixture(scope="module")
def calm(shifting):
    """The first replay."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in worlds.FASHION.items():
            patch.setenv(name, value)
        yield decided(replay(shifting, env.load(), **LATE))


@pytest.mark.slow
def test_a_replay_under_load_decides_the_same(shifting, calm, load, monkeypatch):
    for name, value in worlds.FASHION.items():
        monkeypatch.setenv(name, value)
    assert len(calm["swaps"]) >= 1 and len(calm["verdicts"]) >= 1
    again = decided(replay(shifting, env.load(), **LATE))
    assert again["events"] == calm["events"]
    assert again == calm


@pytest.mark.slow
def test_a_replay_decides_the_same_in_another_year(shifting, calm, monkeypatch):
    for name, value in worlds.FASHION.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(time, "time", lambda: 1.0)
    assert decided(replay(shifting, env.load(), **LATE)) == calm
