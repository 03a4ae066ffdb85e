"""The driver `oip` on a real MLServer and KServe Python server: no request fails, each answer is its version's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import require_or_skip
from tests.parts import python_servers, serving
from tests.parts.load import Load
from tta_agent.core.errors import SwapError, WrongAnswer
from tta_agent.core.types import ServerInfo, Version
from tta_agent.serving.drivers.oip import OipDriver
from tta_agent.serving.swap import bring_up

PARTS = [pytest.param(part, marks=getattr(pytest.mark, part)) for part in ("mlserver", "kserve")]


class Bench:
    """A real server of one model, and the driver that swaps it."""

    def __init__(self, part: str, folder: Path) -> None:
        self.part, self.graphs = part, serving.GraphFolder(folder)
        self.graphs.add(0)
        self.models = folder / "models"
        self.home = python_servers.add_model(part, self.models, "m", serving.graph_bytes(0))
        self.server = python_servers.PythonServer(part, folder, self.models, "m")
        self.server.start()
        self.driver = self.new_driver()

    def new_driver(self, source: int = 1, **options: str) -> OipDriver:
        info = ServerInfo(self.server.url, "m", 60, source=source)
        return OipDriver(info, **{"repository": str(self.models), **options})

    def load(self) -> Load:
        return Load(self.server.url, "m", lambda told: int(told) - 1, input="pixels")

    def swap(self, number: int, content: bytes | None = None) -> Version:
        version = self.graphs.add(number, content)
        bring_up(self.driver, version, serving.golden(number))
        return version


@pytest.fixture(scope="module", params=PARTS)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One server for the file; each test leaves it with the source."""
    require_or_skip(request.param, python_servers.unavailable(request.param))
    made = Bench(request.param, tmp_path_factory.mktemp(request.param))
    yield made
    made.driver.close()
    made.server.kill()


@pytest.fixture(autouse=True)
def _from_the_source(bench: Bench) -> Iterator[None]:
    yield
    bring_up(bench.driver, bench.graphs.find(0), serving.golden(0))


def test_swaps_under_load(bench: Bench) -> None:
    bench.driver.probe()
    assert bench.driver.live() == 0
    with bench.load() as load:
        for number in range(1, 21):
            bench.swap(number)
            assert bench.driver.live() == number
            load.await_version(number)
        bench.driver.rollback()
        assert bench.driver.live() == 19
        with pytest.raises(SwapError, match="no version served before"):
            bench.driver.rollback()
    load.check()
    assert load.versions >= set(range(21)) and load.requests > 200
    print(load.requests, load.worst_s)


def test_a_graph_that_does_not_load_never_serves(bench: Bench) -> None:
    with bench.load() as load:
        with pytest.raises(SwapError, match="version 1 is not published"):
            bench.swap(1, b"junk")
        with pytest.raises(WrongAnswer, match="differs from the golden logits by 100"):
            bench.swap(1, serving.graph_bytes(2))
        assert bench.driver.live() == 0
        bench.swap(1)
        load.await_version(1)
    load.check()
    assert load.versions == {0, 1}


def test_one_that_only_the_server_cannot_load_is_taken_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.swap(1)
    monkeypatch.setattr("tta_agent.serving.clients.local_check.LocalCheck.check", lambda *_: None)
    with bench.load() as load:
        with pytest.raises(SwapError, match="version 2 of the server is live"):
            bench.swap(2, b"junk")
        assert bench.driver.live() == 1
    load.check()


def test_a_server_that_restarts_serves_what_the_pointer_names(bench: Bench) -> None:
    bench.swap(2)
    bench.server.kill()
    bench.server.start()
    with closing(bench.new_driver()) as driver:
        driver.probe()
        assert driver.live() == 2
        driver.verify(serving.golden(2))


def test_the_probe_says_what_to_do(bench: Bench) -> None:
    info, words = (
        ServerInfo(bench.server.url, "m", 10),
        r"(?s)takes no version by number.*TTA_SWAP__OPTIONS='{\"oip\"",
    )
    with closing(OipDriver(info)) as driver, pytest.raises(SwapError, match=words):
        driver.probe()
    other = OipDriver(replace(info, model="mm"), repository=str(bench.models))
    with closing(other), pytest.raises(SwapError, match="did you mean m"):
        other.probe()
    bench.swap(1)
    with (
        closing(bench.new_driver(source=7)) as driver,
        pytest.raises(SwapError, match="TTA_MODEL__SERVED_VERSION"),
    ):
        driver.probe()
