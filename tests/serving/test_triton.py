"""The driver `triton` on a real Triton: no request fails, each answer is of the version that it names."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import require_or_skip
from tests.parts import serving, triton
from tests.parts.load import Load
from tta_agent.core.errors import SwapError, WrongAnswer
from tta_agent.core.types import ServerInfo, Version
from tta_agent.models.ort_sessions import open_session
from tta_agent.serving.clients.triton_repository import SharedFolder
from tta_agent.serving.clients.version_folder import STAGING, VersionFolder
from tta_agent.serving.drivers.triton import TritonDriver
from tta_agent.serving.swap import bring_up, golden

pytestmark = pytest.mark.triton
SOURCE = 3  # the number of the deployed version, as its owner counts


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton.Triton]:
    """One Triton for the file; each test brings a model of its own."""
    require_or_skip("triton", triton.unavailable())
    work = tmp_path_factory.mktemp("triton")
    (work / "models").mkdir()
    with triton.running(work, work / "models") as made:
        yield made


class Bench:
    """A model in Triton, and the driver that swaps it."""

    def __init__(self, server: triton.Triton, name: str, tmp_path: Path, **options: Any) -> None:
        self.server, self.graphs = server, serving.GraphFolder(tmp_path)
        self.home = triton.add_model(
            server.repository, name, serving.graph_bytes(0), version=SOURCE, more=options.pop("config", "")
        )
        info = ServerInfo(server.url, name, 60, source=SOURCE)
        given = {"repository": str(server.repository), "grpc": server.grpc, **options}
        self.driver = TritonDriver(info, **given)
        self.driver._grpc.load(name)
        self.graphs.add(0)

    def load(self) -> Load:
        return Load(self.server.url, self.home.name, lambda told: int(told) - SOURCE)

    def swap(self, number: int, content: bytes | None = None) -> Version:
        version = self.graphs.add(number, content)
        bring_up(self.driver, version, serving.golden(number))
        return version

    def folders(self) -> list[int]:
        return VersionFolder(self.home, "model.onnx", SOURCE).numbers()


@pytest.fixture
def bench(server: triton.Triton, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(server, request.node.name.removeprefix("test_")[:40], tmp_path, standby=False)
    with closing(made.driver):
        yield made


@pytest.mark.parametrize(("datatype", "takes"), [("UINT8", 2), ("INT64", 7), ("FP16", 10)])
def test_models_that_take_other_numbers(
    server: triton.Triton, tmp_path: Path, datatype: str, takes: int
) -> None:
    graphs, name = serving.GraphFolder(tmp_path), f"takes-{datatype.lower()}"
    x = np.random.default_rng(3).uniform(0, 255, (2, *serving.SHAPE)).round().astype(np.float32)
    triton.add_model(server.repository, name, graphs.add(0, takes=takes).path.read_bytes(), takes=datatype)
    info = ServerInfo(server.url, name, 60, source=1)
    with closing(TritonDriver(info, repository=str(server.repository), grpc=server.grpc)) as driver:
        driver._grpc.load(name)
        driver.probe()
        version = graphs.add(1, takes=takes)
        bring_up(driver, version, golden(open_session(version.path), x))
        assert driver.live() == 1


@pytest.mark.slow
def test_swaps_under_load(bench: Bench) -> None:
    bench.driver.probe()
    assert bench.driver.live() == 0
    with bench.load() as load:
        for number in range(1, 21):
            bench.swap(number)
            assert bench.driver.live() == number
            load.await_version(number)
    load.check()
    assert load.versions == set(range(21)) and load.requests > 200
    assert bench.folders() == [
        SOURCE,
        SOURCE + 18,
        SOURCE + 19,
        SOURCE + 20,
    ]  # the oldest goes with the next swap


@pytest.mark.slow
def test_the_way_back_and_forth_under_load(bench: Bench) -> None:
    with bench.load() as load:
        one = bench.swap(1)
        bench.swap(2)
        bench.driver.rollback()
        assert bench.driver.live() == 1
        with pytest.raises(SwapError, match="no version served before"):
            bench.driver.rollback()
        bring_up(
            bench.driver, bench.graphs.find(0), serving.golden(0)
        )  # the source, though newer ones are there
        assert bench.driver.live() == 0 and bench.folders()[-1] == SOURCE
        bring_up(bench.driver, one, serving.golden(1))
        load.await_version(2)
    load.check()
    assert bench.driver.live() == 1


def test_a_graph_that_does_not_load_never_serves(bench: Bench) -> None:
    with bench.load() as load:
        with pytest.raises(SwapError, match=r"(?s)InvalidProtobuf.*version 3 of the server is live"):
            bench.swap(1, b"junk")
        assert bench.driver.live() == 0 and bench.folders() == [SOURCE]
        bench.swap(1)  # under the same number
        load.await_version(1)
    load.check()


def test_a_graph_that_answers_otherwise_is_tried_first_and_never_serves(
    server: triton.Triton, tmp_path: Path
) -> None:
    bench = Bench(server, "tried", tmp_path)
    with closing(bench.driver), bench.load() as load:
        with pytest.raises(WrongAnswer, match=r"version 1 is not published: version 1 differs .* by 100"):
            bench.swap(1, serving.graph_bytes(2))
        with pytest.raises(SwapError, match="InvalidProtobuf"):
            bench.swap(1, b"junk")
        assert bench.folders() == [SOURCE]
        bench.swap(1)
        load.await_version(1)
    load.check()
    assert load.versions == {0, 1}


def test_one_that_answers_otherwise_is_taken_back(bench: Bench) -> None:
    with pytest.raises(WrongAnswer, match="differs from the golden logits by 100"):
        bench.swap(1, serving.graph_bytes(2))
    assert bench.driver.live() == 0
    bench.driver.verify(serving.golden(0))


def test_a_load_that_loads_nothing_is_noticed(bench: Bench, tmp_path: Path) -> None:
    another = tmp_path / "models" / bench.home.name  # not the folder that the server serves
    another.parent.mkdir()
    shutil.copytree(bench.home, another)
    bench.driver._repository = SharedFolder(VersionFolder(another, "model.onnx", SOURCE))
    with pytest.raises(
        SwapError, match=r"(?s)has loaded .* but version 3 answers, not 4.*sees no newer change time"
    ):
        bench.swap(1)
    assert bench.driver.live() == 0


def test_a_server_that_restarts_with_its_old_version_is_told_again(bench: Bench) -> None:
    version = bench.swap(1)
    shutil.rmtree(bench.home / str(SOURCE + 1))  # a volume that begins anew with the Pod
    bench.driver._grpc.load(bench.home.name)
    assert bench.driver.live() == 0
    bring_up(bench.driver, version, serving.golden(1))
    assert bench.driver.live() == 1


def test_without_grpc_it_swaps_over_rest_and_says_so(
    server: triton.Triton, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(server, "rest", tmp_path)
    bench.driver._grpc.address, bench.driver._grpc._channel = "127.0.0.1:9", None
    with closing(bench.driver):
        bench.swap(1)
        assert bench.driver.live() == 1
    assert "requests wait while the server loads over REST" in caplog.text


def test_a_golden_batch_larger_than_the_server_takes(bench: Bench) -> None:
    version = bench.graphs.add(1)
    bring_up(bench.driver, version, serving.golden(1, 150))
    assert bench.driver.live() == 1


@pytest.mark.slow
@pytest.mark.parametrize("control", ["none", "poll"])
def test_control_modes(control: str, tmp_path: Path) -> None:
    require_or_skip("triton", triton.unavailable())
    (tmp_path / "models").mkdir()
    home = triton.add_model(tmp_path / "models", "m", serving.graph_bytes(0))
    options = ["--repository-poll-secs=1"] if control == "poll" else []
    with triton.running(tmp_path, tmp_path / "models", control=control, options=options) as server:
        info, given = (
            ServerInfo(server.url, "m", 60, source=1),
            {"repository": str(home.parent), "grpc": server.grpc},
        )
        with closing(TritonDriver(info, **given)) as driver:
            with pytest.raises(SwapError, match=r"model-control-mode=explicit --load-model=m") as caught:
                driver.probe()
            assert len(str(caught.value).splitlines()) == 2
        if control == "poll":
            with closing(TritonDriver(info, **given, control="poll")) as driver:
                swap_by_poll(driver, server, serving.GraphFolder(tmp_path))


def swap_by_poll(driver: TritonDriver, server: triton.Triton, graphs: serving.GraphFolder) -> None:
    driver.probe()
    with Load(server.url, "m", lambda told: int(told) - 1) as load:
        for number in (1, 2, 1):
            bring_up(driver, graphs.add(number), serving.golden(number))
            assert driver.live() == number
    load.check()


def test_the_probe_says_what_to_do(server: triton.Triton, tmp_path: Path) -> None:
    policy = "version_policy: { specific: { versions: [ 3 ] } }\n"
    bench = Bench(server, "pinned", tmp_path, config=policy)
    with (
        closing(bench.driver),
        pytest.raises(SwapError, match=r"(?s)policy specific \[.*Write `version_policy: { latest"),
    ):
        bench.driver.probe()
    for name, repository, words in [
        ("pinnd", server.repository, "did you mean pinned"),
        ("pinned", tmp_path, "is no folder: name the one in which the server's repository is"),
    ]:
        info = ServerInfo(server.url, name, 60)
        driver = TritonDriver(info, repository=str(repository), grpc=server.grpc)
        with closing(driver), pytest.raises(SwapError, match=words):
            driver.probe()


def test_a_folder_that_cannot_be_written_is_told(bench: Bench) -> None:
    (bench.home / STAGING).write_text("in the way")
    with pytest.raises(SwapError, match=r"(?s)Mount the server's repository .* storage.kserve.io/readonly"):
        bench.driver.probe()
    (bench.home / STAGING).unlink()
    bench.driver._repository = SharedFolder(VersionFolder(bench.home, "model.onnx", 0))
    with pytest.raises(SwapError, match=r"(?s)as version 3, not 0:.*set TTA_MODEL__SERVED_VERSION=3"):
        bench.driver.probe()
    shutil.rmtree(bench.home / str(SOURCE))
    with pytest.raises(SwapError, match="holds no version of the deployed model: put it back as version 0"):
        bench.driver.probe()


@pytest.mark.slow
def test_versions_are_uploaded_where_no_folder_is_shared(server: triton.Triton, tmp_path: Path) -> None:
    beside = shutil.copy(triton.MODEL, tmp_path / "model.py")
    bench = Bench(server, "uploaded", tmp_path, repository=None, more=[str(beside)])
    bench.driver.probe()
    with closing(bench.driver), bench.load() as load:
        for number in (1, 2, 3):
            bench.swap(number)
            load.await_version(number)
        bench.driver.rollback()
        assert bench.driver.live() == 2
        with pytest.raises(SwapError, match="InvalidProtobuf"):
            bench.swap(4, b"junk")
        assert bench.driver.live() == 2
        bring_up(bench.driver, bench.graphs.find(0), serving.golden(0))
        assert bench.driver.live() == 0
        bench.swap(5)
    load.check()
    assert bench.folders() == [SOURCE]  # nothing was written
    info = ServerInfo(server.url, "uploaded", 10, source=SOURCE)
    for given, words in [
        (
            {"grpc": "127.0.0.1:9", "more": [str(beside)]},
            r"gRPC API \(REST takes 64 MB\), which does not answer",
        ),
        ({"grpc": server.grpc}, "waits for a model.py: name yours in the driver's option more"),
    ]:
        other = TritonDriver(info, **given)
        with closing(other), pytest.raises(SwapError, match=words):
            other.probe()


def test_options_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="control is 'none'; expected explicit or poll"):
        TritonDriver(ServerInfo("http://127.0.0.1:9", "m", 1), repository="/models", control="none")
