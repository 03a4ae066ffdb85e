"""All drivers keep the contract of `ServerDriver`: a failure leaves the old version live."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tests.parts import serving
from tests.parts.ovms import Ovms
from tta_agent.core.errors import SwapError
from tta_agent.core.protocols import ServerDriver
from tta_agent.core.types import Golden, ServerInfo, Version
from tta_agent.models.ort_sessions import HotSwapSession, open_session, open_version
from tta_agent.serving.drivers.files import FilesDriver
from tta_agent.serving.drivers.oip import OipDriver
from tta_agent.serving.drivers.ovms import OvmsDriver
from tta_agent.serving.drivers.session import SessionDriver
from tta_agent.serving.server.app import make_app


class Bench:
    """A driver, what it swaps, and the versions there are."""

    def __init__(self, graphs: serving.GraphFolder, pair: HotSwapSession) -> None:
        self.graphs, self.pair = graphs, pair
        self.driver: ServerDriver

    def live_answers(self, number: int) -> None:
        """The live version is `number`, by its own word and by what it answers."""
        assert self.driver.live() == number
        self.driver.verify(serving.golden(number))

    def swap(self, number: int) -> Version:
        version = self.graphs.add(number)
        self.driver.publish(version, serving.golden(number))
        self.driver.activate(version)
        return version


@pytest.fixture(params=["session", "oip", "files", "ovms"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    graphs = serving.GraphFolder(tmp_path)
    pair = HotSwapSession(0, open_version(graphs.add(0), open_session))
    made = Bench(graphs, pair)
    if request.param == "session":
        made.driver = SessionDriver(pair, open_session)
        yield made
        return
    if request.param == "files":
        home = tmp_path / "models" / "tiny"
        (home / "0").mkdir(parents=True)
        (home / "0" / "model.onnx").write_bytes(graphs.find(0).path.read_bytes())
        made.driver = FilesDriver(ServerInfo("", "tiny", 10), repository=str(tmp_path / "models"))
        made.driver.probe()
        yield made
        return
    if request.param == "ovms":
        home = tmp_path / "models" / "tiny"
        (home / "1").mkdir(parents=True)
        (home / "1" / "model.onnx").write_bytes(graphs.find(0).path.read_bytes())
        with serving.running(Ovms("tiny", home).app()) as url:
            made.driver = OvmsDriver(
                ServerInfo(url, "tiny", 10, source=1), repository=str(tmp_path / "models")
            )
            yield made
            made.driver.close()
        return
    with serving.running(make_app("tiny", pair, graphs.find, input_name="image")) as url:
        made.driver = OipDriver(ServerInfo(url, "tiny", 10))
        yield made
        made.driver.close()


def test_publish_leaves_the_old_live_and_activate_switches(bench: Bench) -> None:
    bench.driver.probe()
    version = bench.graphs.add(1)
    bench.driver.publish(version, serving.golden(1))
    bench.live_answers(0)
    bench.driver.activate(version)
    bench.live_answers(1)
    bench.driver.close()
    bench.driver.close()


def test_publishing_and_activating_the_live_version_changes_nothing(bench: Bench) -> None:
    version = bench.swap(1)
    bench.driver.publish(version, serving.golden(1))
    bench.driver.activate(version)
    bench.live_answers(1)
    bench.driver.rollback()
    bench.live_answers(0)


def test_rollback_goes_one_step_and_not_two(bench: Bench) -> None:
    with pytest.raises(SwapError, match="no version served before"):
        bench.driver.rollback()
    bench.swap(1)
    bench.swap(2)
    bench.driver.rollback()
    bench.live_answers(1)
    with pytest.raises(SwapError, match="no version served before"):
        bench.driver.rollback()
    bench.live_answers(1)


def test_many_swaps_in_a_row(bench: Bench) -> None:
    for number in range(1, 8):
        bench.swap(number)
        bench.live_answers(number)


def missing(bench: Bench) -> tuple[Version, Golden]:
    version = bench.graphs.add(1)
    version.path.unlink()
    return version, serving.golden(1)


def damaged(bench: Bench) -> tuple[Version, Golden]:
    version = bench.graphs.add(1)
    version.path.write_bytes(b"junk")
    return version, serving.golden(1)


def not_a_graph(bench: Bench) -> tuple[Version, Golden]:
    return bench.graphs.add(1, b"junk"), serving.golden(1)


def another_hash(bench: Bench) -> tuple[Version, Golden]:
    return replace(bench.graphs.add(1), sha256="0" * 64), serving.golden(1)


def another_answer(bench: Bench) -> tuple[Version, Golden]:
    golden = serving.golden(1)
    return bench.graphs.add(1), Golden(golden.x, golden.logits + 0.01)


def not_finite(bench: Bench) -> tuple[Version, Golden]:
    return bench.graphs.add(1, scale=float("nan")), serving.golden(1)


def another_shape(bench: Bench) -> tuple[Version, Golden]:
    return bench.graphs.add(1, shape=(1, 5, 5)), serving.golden(1)


@pytest.mark.parametrize(
    "make", [missing, damaged, not_a_graph, another_hash, another_answer, not_finite, another_shape]
)
def test_what_cannot_be_published_never_becomes_live(bench: Bench, make: object) -> None:
    assert callable(make)
    version, golden = make(bench)
    with pytest.raises(SwapError):
        bench.driver.publish(version, golden)
    bench.live_answers(0)
    bench.swap(2)  # and it does not stand in the way of the next
    bench.live_answers(2)


def test_what_was_not_published_cannot_be_activated(bench: Bench) -> None:
    with pytest.raises(SwapError, match="version 1 "):
        bench.driver.activate(bench.graphs.add(1))
    bench.live_answers(0)


def test_verify_notices_other_answers(bench: Bench) -> None:
    with pytest.raises(SwapError, match=r"differs from the golden logits by 100"):
        bench.driver.verify(serving.golden(1))
    golden = serving.golden(0)
    with pytest.raises(SwapError, match="answers shape"):
        bench.driver.verify(Golden(golden.x, golden.logits[:, :2]))
    with pytest.raises(SwapError):
        bench.driver.verify(Golden(np.zeros((1, 9), np.float32), golden.logits))
    bench.live_answers(0)


def test_after_another_was_loaded_the_session_driver_says_what_to_do(tmp_path: Path) -> None:
    graphs = serving.GraphFolder(tmp_path)
    driver = SessionDriver(HotSwapSession(0, open_version(graphs.add(0), open_session)), open_session)
    driver.publish(graphs.add(1), serving.golden(1))
    driver.activate(graphs.find(1))
    driver.publish(graphs.add(2), serving.golden(2))
    with pytest.raises(SwapError, match="publish version 0 again"):
        driver.rollback()
    assert driver.live() == 1


@contextmanager
def asking(url: str, model: str = "tiny") -> Iterator[OipDriver]:
    driver = OipDriver(ServerInfo(url, model, 10))
    try:
        yield driver
    finally:
        driver.close()


@contextmanager
def serving_zero(graphs: serving.GraphFolder) -> Iterator[str]:
    pair = HotSwapSession(0, open_version(graphs.add(0), open_session))
    with serving.running(make_app("tiny", pair, graphs.find)) as url:
        yield url


def test_after_another_was_loaded_the_server_loads_the_previous_anew(tmp_path: Path) -> None:
    graphs = serving.GraphFolder(tmp_path)
    with serving_zero(graphs) as url, asking(url) as driver:
        driver.publish(graphs.add(1), serving.golden(1))
        driver.activate(graphs.find(1))
        driver.publish(graphs.add(2), serving.golden(2))
        driver.rollback()
        assert driver.live() == 0
        driver.verify(serving.golden(0))


def test_probe_says_that_nobody_answers() -> None:
    words = "Is the model server running there"
    with asking("http://127.0.0.1:9") as driver, pytest.raises(SwapError, match=words) as caught:
        driver.probe()
    assert len(str(caught.value).splitlines()) <= 3


async def plain(request: Request) -> Response:
    return JSONResponse({"name": "other", "extensions": ["binary_tensor_data"]})


async def page(request: Request) -> Response:
    return PlainTextResponse("<html>")


@pytest.mark.parametrize(
    ("endpoint", "words"), [(plain, "no model_repository extension"), (page, "is not JSON")]
)
def test_probe_says_that_the_server_cannot_swap(endpoint: object, words: str) -> None:
    assert callable(endpoint)
    with serving.running(Starlette(routes=[Route("/v2", endpoint)])) as url, asking(url) as driver:
        with pytest.raises(SwapError, match=words):
            driver.probe()
        with pytest.raises(SwapError, match="404"):
            driver.live()


def test_probe_names_the_model_that_there_is(tmp_path: Path) -> None:
    graphs = serving.GraphFolder(tmp_path)
    with serving_zero(graphs) as url, asking(url, "tinny") as driver:
        with pytest.raises(SwapError, match="did you mean tiny"):
            driver.probe()
        with pytest.raises(SwapError, match="does not say which version of tinny is live"):
            driver.publish(graphs.add(1), serving.golden(1))


def test_a_switch_that_does_not_show_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = serving.GraphFolder(tmp_path)
    with serving_zero(graphs) as url, asking(url) as driver:
        driver.publish(graphs.add(1), serving.golden(1))
        monkeypatch.setattr(driver._client, "infer", lambda x, path="": ("7", x))
        words = r"version 7 answers after the switch.*\n.*version 0 is live"
        with pytest.raises(SwapError, match=words):
            driver.activate(graphs.find(1))
        assert driver.live() == 0
