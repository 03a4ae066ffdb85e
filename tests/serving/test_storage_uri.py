"""Drivers that patch the storageUri of a custom resource."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.parts import platform, serving
from tta_agent.core.errors import SwapError
from tta_agent.core.types import Golden, ServerInfo
from tta_agent.serving.clients import storage_uri
from tta_agent.serving.clients.storage_uri import SOURCE, StorageUriDriver
from tta_agent.serving.drivers.kserve import KserveDriver
from tta_agent.serving.drivers.seldon import SeldonDriver
from tta_agent.serving.server.app import make_app
from tta_agent.serving.swap import bring_up

URI = "pvc://claim/"
SOURCE_URI = f"{URI}deployed"
PLATFORMS = {
    "kserve": (KserveDriver, platform.inference_service, "inferenceservices", platform.kserve_status),
    "seldon": (SeldonDriver, platform.seldon_model, "models", platform.seldon_status),
}


def uri_in(driver: type[StorageUriDriver], resource: Any) -> str:
    """The storageUri of a resource."""
    for part in driver.place(resource) or ():
        resource = resource[part]
    return str(resource)


@dataclass
class Bench:
    """A platform with the source, and a driver."""

    driver: StorageUriDriver
    api: platform.Api
    graphs: serving.GraphFolder
    volume: Path

    @property
    def uri(self) -> str:
        return uri_in(type(self.driver), self.api.get())


@contextmanager
def running(name: str, folder: Path, /, **options: Any) -> Iterator[Bench]:
    driver, make, plural, status = PLATFORMS[name]
    volume, graphs = folder / "volume", serving.GraphFolder(folder)
    (volume / "deployed").mkdir(parents=True)
    (volume / "deployed" / "model.onnx").write_bytes(graphs.add(0).path.read_bytes())
    api = platform.Api(make(SOURCE_URI), plural)
    with ExitStack() as stack:
        there = platform.Controller(
            api.get, api.report, functools.partial(uri_in, driver), status, volume, URI
        )
        stack.enter_context(there)
        app = make_app("tiny", there.pair, graphs.find, input_name="image")
        url, address = (stack.enter_context(serving.running(each)) for each in (app, api.app()))
        given: dict[str, Any] = {
            "store": str(volume), "uri": URI, "api": address, "wait_s": 10.0,
            "account": str(platform.account(folder / "account")),
        }  # fmt: skip
        made = driver(ServerInfo(url, "tiny", 10), **(given | options))
        yield Bench(made, api, graphs, volume)
        made.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_uri, "POLL_S", 0.02)


@pytest.fixture(params=list(PLATFORMS))
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    with running(request.param, tmp_path) as made:
        yield made


def test_swaps_and_the_way_back(bench: Bench) -> None:
    bench.driver.probe()
    assert bench.driver.live() == 0
    for number in (1, 2, 3):
        bring_up(bench.driver, bench.graphs.add(number), serving.golden(number))
        assert bench.driver.live() == number and bench.uri == f"{URI}tiny/{number}"
    noted = bench.api.get()["metadata"]["annotations"][SOURCE]
    assert noted == SOURCE_URI
    bench.driver.rollback()
    assert bench.driver.live() == 2
    bench.driver.verify(serving.golden(2))
    with pytest.raises(SwapError, match="no version served before"):
        bench.driver.rollback()
    bring_up(bench.driver, bench.graphs.find(0), serving.golden(0))
    assert bench.uri == SOURCE_URI and bench.driver.live() == 0


def test_older_versions_go_and_the_one_before_stays(bench: Bench) -> None:
    for number in (1, 2, 3, 4):
        bring_up(bench.driver, bench.graphs.add(number), serving.golden(number))
    kept = sorted(path.name for path in (bench.volume / "tiny").iterdir() if path.name.isdecimal())
    assert kept == ["2", "3", "4"]  # 2 was the one before, until 4 was switched to
    assert (bench.volume / "deployed" / "model.onnx").exists()


def test_a_version_that_does_not_come_up_is_taken_back(bench: Bench) -> None:
    bring_up(bench.driver, bench.graphs.add(1), serving.golden(1))
    bench.driver.publish(bench.graphs.add(2), serving.golden(2))
    (bench.volume / "tiny" / "2" / "model.onnx").write_bytes(b"junk")  # on the platform's side
    with pytest.raises(
        SwapError, match=r"(?s)does not come up with pvc://claim/tiny/2.*names pvc://claim/tiny/1 again"
    ):
        bench.driver.activate(bench.graphs.find(2))
    assert bench.driver.live() == 1
    bench.driver.verify(serving.golden(1))


def test_wrong_answers_are_taken_back(bench: Bench) -> None:
    bench.driver._wait_s = 0.3
    bench.driver.publish(bench.graphs.add(1), serving.golden(1))
    (bench.volume / "tiny" / "1" / "model.onnx").write_bytes(serving.graph_bytes(7))
    with pytest.raises(
        SwapError, match=r"(?s)differs from the golden logits.*names pvc://claim/deployed again"
    ):
        bench.driver.activate(bench.graphs.find(1))
    assert bench.driver.live() == 0


def test_what_cannot_be_published_is_not_written(bench: Bench) -> None:
    golden = serving.golden(1)
    with pytest.raises(SwapError, match="differs from the golden logits"):
        bench.driver.publish(bench.graphs.add(1), Golden(golden.x, golden.logits + 1))
    with pytest.raises(SwapError, match="was not published and checked"):
        bench.driver.activate(bench.graphs.find(1))
    assert not (bench.volume / "tiny" / "1").exists() and bench.api.patches == []


def test_files_beside_the_graph_come_with_each_version(tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "labels.txt").write_text("a\nb\n")
    with running("kserve", tmp_path, beside=str(tmp_path / "beside")) as bench:
        bring_up(bench.driver, bench.graphs.add(1), serving.golden(1))
        assert (bench.volume / "tiny" / "1" / "labels.txt").read_text() == "a\nb\n"


def test_versions_in_an_object_store(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    with running("seldon", tmp_path, store="memory://bucket/models", uri=URI) as bench:
        bench.driver.probe()
        with pytest.raises(SwapError, match="does not come up"):  # this platform reads folders
            bring_up(bench.driver, bench.graphs.add(1), serving.golden(1))
        home = "/bucket/models/tiny"
        assert memory.cat_file(f"{home}/1/model.onnx") == bench.graphs.find(1).path.read_bytes()
        for number in (2, 3):
            bench.driver.publish(bench.graphs.add(number), serving.golden(number))
        assert [path.rpartition("/")[2] for path in sorted(memory.ls(home, detail=False))] == ["3"]
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("options", "may", "words"),
    [
        ({"name": "other"}, ("GET", "PATCH"), r"answered 404: not found\n.*options name and namespace"),
        ({}, (), r"answered 403: cannot get resource\n.*verbs get and patch on inferenceservices"),
        ({}, ("GET",), "PATCH of InferenceService tiny is answered 403"),
        ({"account": "/nowhere"}, ("GET",), r"no service account is mounted at /nowhere.*rbac.create=true"),
        ({"api": "http://127.0.0.1:9"}, ("GET",), "API server at http://127.0.0.1:9 does not answer"),
        ({"store": "/proc/none"}, ("GET", "PATCH"), "option store=/proc/none"),
        ({"store": "nosuch://bucket"}, ("GET", "PATCH"), "option store=nosuch://bucket cannot be used"),
    ],
)
def test_the_preflight_says_what_is_wrong(
    tmp_path: Path, options: dict[str, Any], may: tuple[str, ...], words: str
) -> None:
    with running("kserve", tmp_path, **options) as bench:
        bench.api.may = may
        with pytest.raises(SwapError, match=words) as caught:
            bench.driver.probe()
        assert len(str(caught.value).splitlines()) <= 3


def test_containers_of_ones_own_have_no_uri(tmp_path: Path) -> None:
    with running("kserve", tmp_path) as bench:
        bench.api.resource["spec"] = {"predictor": {"containers": [{"name": "mine", "image": "x"}]}}
        with pytest.raises(SwapError, match="InferenceService tiny has no storageUri"):
            bench.driver.probe()


def test_a_token_is_read_anew(tmp_path: Path) -> None:
    with running("seldon", tmp_path) as bench:
        bench.driver.probe()
        token = tmp_path / "account" / "token"
        token.write_text("old")
        with pytest.raises(SwapError, match="401"):
            bench.driver.live()
        token.write_text(platform.TOKEN)
        assert bench.driver.live() == 0
