"""SIGKILL at every step of a swap: the server serves an intact version, and the next agent puts it right."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.conftest import require_or_skip
from tests.parts import killed, platform, python_servers, serving, triton
from tests.parts.ovms import Ovms
from tests.serving.test_storage_uri import PLATFORMS, SOURCE_URI, URI, uri_in
from tta_agent.core.types import ServerInfo
from tta_agent.models import external_data
from tta_agent.models.data_files import DataFiles
from tta_agent.models.ort_sessions import HotSwapSession, open_session
from tta_agent.registry.cache import digest_of
from tta_agent.registry.registry import ModelRegistry
from tta_agent.serving.server.app import make_app

Driver = Mapping[str, Any]


@dataclass
class Place:
    """A server with one model, and its folder.

    Attributes:
        home: version folders, where the server has them.
        restart: starts the server anew.
    """

    driver: Driver
    home: Path | None = None
    restart: Callable[[], None] = lambda: None


def driver(name: str, url: str, source: int, **options: Any) -> Driver:
    """A driver, in words."""
    return {"name": name, "options": options, "server": asdict(ServerInfo(url, "m", 60, source=source))}


@contextlib.contextmanager
def embedded(folder: Path) -> Iterator[Place]:
    registry = ModelRegistry(folder / "versions")
    pair = HotSwapSession(0, open_session(registry.get(0).path))
    with serving.running(make_app("m", pair, registry.get)) as url:
        yield Place(driver("oip", url, 0))


@contextlib.contextmanager
def files(folder: Path) -> Iterator[Place]:
    home = folder / "models" / "m"
    home.mkdir(parents=True)
    yield Place(driver("files", "", 0, repository=str(folder / "models")), home)


@contextlib.contextmanager
def openvino(folder: Path) -> Iterator[Place]:
    home = folder / "models" / "m"
    (home / "1").mkdir(parents=True)
    (home / "1" / "model.onnx").write_bytes(serving.graph_bytes(0))
    server = Ovms("m", home)
    with serving.running(server.app()) as url:
        yield Place(driver("ovms", url, 1, repository=str(folder / "models")), home, server.restart)


@contextlib.contextmanager
def custom_resource(name: str, folder: Path) -> Iterator[Place]:
    kind, make, plural, status = PLATFORMS[name]
    (volume := folder / "volume" / "deployed").mkdir(parents=True)
    (volume / "model.onnx").write_bytes(serving.graph_bytes(0))
    api = platform.Api(make(SOURCE_URI), plural, name="m")
    with contextlib.ExitStack() as stack:
        uri_of = functools.partial(uri_in, kind)
        there = platform.Controller(api.get, api.report, uri_of, status, folder / "volume", URI)
        stack.enter_context(there)
        apps = make_app("m", there.pair, lambda _: None), api.app()
        url, address = (stack.enter_context(serving.running(app)) for app in apps)
        given = {"store": str(folder / "volume"), "uri": URI, "wait_s": 20}
        account = str(platform.account(folder / "account"))
        (home := folder / "volume" / "m").mkdir()
        yield Place(driver(name, url, 0, **given, api=address, account=account), home)


@contextlib.contextmanager
def python_server(part: str, folder: Path) -> Iterator[Place]:
    require_or_skip(part, python_servers.unavailable(part))
    home = python_servers.add_model(part, folder / "models", "m", serving.graph_bytes(0))
    with python_servers.running(part, folder, folder / "models", "m") as server:
        restart = _restarting(server)
        yield Place(driver("oip", server.url, 1, repository=str(folder / "models")), home, restart)


@contextlib.contextmanager
def real_triton(folder: Path) -> Iterator[Place]:
    require_or_skip("triton", triton.unavailable())
    (folder / "models").mkdir()
    home = triton.add_model(folder / "models", "m", serving.graph_bytes(0))
    with triton.running(folder, folder / "models", ["m"]) as server:
        options = {"repository": str(folder / "models"), "grpc": server.grpc, "standby": False}
        yield Place(driver("triton", server.url, 1, **options), home, _restarting(server))


def _restarting(server: Any) -> Callable[[], None]:
    def restart() -> None:
        server.kill()
        server.start()

    return restart


PLACES = {  # with the distance of the steps that are tried; KILLS=all tries each
    "embedded": (embedded, 2),
    "files": (files, 1),
    "ovms": (openvino, 2),
    "resource": (lambda folder: custom_resource("kserve", folder), 4),
    "seldon": (lambda folder: custom_resource("seldon", folder), 4),
    "mlserver": (lambda folder: python_server("mlserver", folder), 3),
    "kserve": (lambda folder: python_server("kserve", folder), 5),
    "triton": (real_triton, 5),  # it takes seconds for a load
}
REAL = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("mlserver", "kserve", "triton")]
MARKED = ["embedded", "files", "ovms", "resource", "seldon", *REAL]


def registry_in(
    folder: Path, graph: Callable[[int], bytes] = serving.graph_bytes, data: DataFiles | None = None
) -> ModelRegistry:
    registry = ModelRegistry(folder / "versions")
    registry.ensure_source("f", lambda: (graph(0), serving.golden(0).x), data)
    return registry


def with_data(folder: Path) -> tuple[Callable[[int], bytes], DataFiles]:
    """Graphs as those of the tests, the weights in a file beside them, as models above 2 GiB have it."""

    def graph(number: int) -> bytes:
        proto = onnx.ModelProto.FromString(serving.graph_bytes(number))
        (weights,) = (item for item in proto.graph.initializer if item.name == "w")
        (folder / "w.data").write_bytes(data := weights.raw_data)
        external_data.place(weights, "w.data", 0, len(data))
        return bytes(proto.SerializeToString())

    folder.mkdir()
    return graph, DataFiles(folder, ("w.data",))


def known(registry: ModelRegistry) -> set[str]:
    return {registry.manifest(number)["sha256"] for number in registry.numbers()}


def check_folder(home: Path, registry: ModelRegistry) -> None:
    """Whatever the server could find is whole."""
    found = [path for path in home.iterdir() if path.name[0].isdecimal() or path.name == "current"]
    for path in found:
        graph = (path / "model.onnx").read_bytes()
        assert hashlib.sha256(graph).hexdigest() in known(registry), path
        assert registry.data() == {name: digest_of(path / name) for name in registry.data()}


@pytest.mark.slow
@pytest.mark.parametrize("name", MARKED)
def test_a_kill_at_any_step_leaves_an_intact_version(name: str, tmp_path: Path) -> None:
    place, stride = PLACES[name]
    registry = registry_in(tmp_path)
    with place(tmp_path) as there:
        kill_at_steps(there, tmp_path, registry, stride)


def test_a_kill_at_any_step_leaves_the_data_files_whole(tmp_path: Path) -> None:
    graph, data = with_data(tmp_path / "served")
    registry = registry_in(tmp_path, graph, data)
    with files(tmp_path) as there:
        kill_at_steps(there, tmp_path, registry, 2, graph)
        assert sorted(path.name for path in (there.home or tmp_path).glob("current/*"))[-1] == "w.data"


def kill_at_steps(
    there: Place, folder: Path, registry: ModelRegistry, stride: int,
    graph: Callable[[int], bytes] = serving.graph_bytes,
) -> None:  # fmt: skip
    """Kill an agent before each of its steps, or each so many, until one gets through; see what is left behind."""
    stride = 1 if os.environ.get("KILLS") == "all" else stride
    with killed.victims(folder, there.driver) as victims:
        for step in range(1, 1000, stride):
            number = registry.add(graph(step), registry.get(0), {}).number
            again = victims.killed(step, number)
            if there.home is not None:
                check_folder(there.home, registry)
                if step % 3 == 1:  # a server that restarts now finds something whole
                    there.restart()
            check_server(folder, there.driver, registry)
            if not again:
                break
        assert not again and step > 10, step
        assert registry.aliases()["serving"] == number


def check_server(folder: Path, named: Driver, registry: ModelRegistry) -> None:
    """The server answers with some version, whole; an agent that starts puts the one of the registry into it."""
    model = killed.agent(folder, named)
    with contextlib.closing(model._driver) as driver:
        assert driver.live() in registry.numbers()
        model.align()
        assert driver.live() == model.version.number == registry.aliases()["serving"]
        assert model.check() is None
