"""Sessions are warm before they answer users, and the memory of a server is said before it starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.parts import serving
from tests.serving.test_batching import planes, pooled
from tests.serving.test_server import Server, serving_tiny
from tta_agent.models.ort_sessions import Session, open_session
from tta_agent.serving.server.memory import MemoryForecast
from tta_agent.serving.server.warming import warm


class Watched:
    """A session that keeps the shapes that it was run on, and fails where it is told to."""

    def __init__(self, session: Session, broken: bool = False) -> None:
        self.get_inputs, self.get_outputs, self._session = session.get_inputs, session.get_outputs, session
        self.shapes: list[tuple[int, ...]] = []
        self._broken = broken

    def run(self, outputs: Any, feeds: Any) -> Any:
        self.shapes += [x.shape for x in feeds.values()]
        if self._broken:
            raise RuntimeError("no kernel")
        return self._session.run(outputs, feeds)


@contextmanager
def watched(folder: Path, broken: int = -1) -> Iterator[tuple[Server, dict[int, Watched]]]:
    """The server, and each session that it opens, by version."""
    opened: dict[int, Watched] = {}

    def open(graph: Any) -> Session:
        number = int(graph.stem)
        opened[number] = Watched(open_session(graph), number == broken)
        return opened[number]

    with serving_tiny(folder, open=open) as server:
        for number in (1, 2, 3):
            server.graphs.add(number)
        yield server, opened


def test_a_version_runs_before_it_is_live(tmp_path: Path) -> None:
    with watched(tmp_path) as (server, opened):
        server.load("1")
        assert opened[1].shapes == [(1, *serving.SHAPE)], "nobody has asked: one sample"
        server.infer(serving.samples(20))
        server.infer(serving.samples(2))
        opened[1].shapes.clear()
        server.load("2", activate=False)
        assert opened[2].shapes == [], "only its own URL answers with it"
        server.load("2")
        assert opened[2].shapes == [(8, *serving.SHAPE), (2, *serving.SHAPE)], "as it was asked, 8 at most"
        server.load("1")
        assert opened[1].shapes == [], "the one before has run"


def test_a_version_that_was_asked_is_warm(tmp_path: Path) -> None:
    with watched(tmp_path) as (server, opened):
        server.load("1", activate=False)
        server.infer(serving.samples(3), "/versions/1")
        server.load("1")
        assert opened[1].shapes == [(3, *serving.SHAPE)]


def test_a_version_that_fails_when_it_is_warmed_changes_nothing(tmp_path: Path) -> None:
    with watched(tmp_path, broken=2) as (server, _):
        server.load("1", activate=False)
        found = server.load("2")
        assert found.status_code == 500 and "no kernel" in found.json()["error"]
        assert server.index() == {"0": "live", "1": "standby"}


def test_a_model_of_any_size_is_warmed_with_the_sizes_that_it_was_asked(tmp_path: Path) -> None:
    session = Watched(open_session(pooled()))
    warm(session)
    assert session.shapes == []
    warm(session, [planes(2, 5, 0).shape])
    assert session.shapes == [(2, 3, 5, 5)]


def test_a_forecast_is_one_line_that_adds_up() -> None:
    text = str(MemoryForecast(100 << 20, 50 << 20, 288 << 20))
    assert text == (
        "memory: about 340 MiB, 180 MiB for two versions of 50 among them; up to 288 more for requests in flight"
        " (TTA_SERVE__BODY_BYTES) and the tap"
    )
    assert "160 MiB, 180 MiB for two versions of 50 on cuda:1; " in str(
        MemoryForecast(100 << 20, 50 << 20, 0, "cuda:1")
    )
    assert np.isclose(MemoryForecast(1, 2, 3).versions_bytes, 7.2)
