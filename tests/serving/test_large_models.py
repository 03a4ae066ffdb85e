"""Models with data files beside them, on the way to each kind of server: of a few KB, and (LARGE=1) above 2 GiB."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from tests.parts import large, serving
from tta_agent.assembly import build
from tta_agent.cli.main import app as command
from tta_agent.core.errors import SwapError
from tta_agent.core.types import Golden, ServerInfo, Version
from tta_agent.models import loader, message_size, onnx_export
from tta_agent.models.inspection import inspect
from tta_agent.models.onnx_export import GraphTemplate
from tta_agent.models.ort_sessions import HotSwapSession, open_session, raw_answer
from tta_agent.registry.patches import Patches
from tta_agent.registry.registry import ModelRegistry
from tta_agent.serving.clients import triton_repository
from tta_agent.serving.clients.triton_repository import SharedFolder, Upload
from tta_agent.serving.clients.uri_store import UriStore
from tta_agent.serving.clients.version_folder import VersionFolder
from tta_agent.serving.drivers.files import FilesDriver
from tta_agent.serving.drivers.oip import OipDriver
from tta_agent.serving.server.app import make_app
from tta_agent.serving.swap import bring_up, golden
from tta_agent.settings import env
from tta_agent.settings.schema import Settings

ROWS, WIDTH = 64, 512
WIDE, ABOVE = 16384, 36000  # rows of 64 KiB: 2.2 GiB, most of it without a place on the disk
NEEDED_BYTES = 10 << 30  # of memory: the model, its copies, and room for the others on this machine


@dataclass
class Bench:
    """The registry of an agent, with the source and two versions.

    Attributes:
        x: golden inputs.
    """

    registry: ModelRegistry
    x: np.ndarray
    settings: Settings

    def version(self, number: int) -> tuple[Version, Golden]:
        """A version and its golden batch."""
        version = self.registry.get(number)
        return version, golden(open_session(version.path), self.x)


def bench_of(path: Path, rows: int, folder: Path) -> Bench:
    """The way of a served file into the registry, as the agent goes it."""
    settings = env.load(model={"onnx": path, "device": "cpu"}, store={"path": folder / "store"})
    source = loader.load(None, None, None, onnx=path, device="cpu")
    template = GraphTemplate(source.module, source.shape, source.graph)
    assert template.patchable
    registry = build.open_registry(settings, source, template)
    tensors = onnx_export.floats(source.module)
    for number in (1, 2):
        assert source.graph is not None
        moved = {**tensors, "norm.bias": tensors["norm.bias"] + number}
        registry.add(source.graph.patched(moved), registry.get(0), {})
    return Bench(registry, large.ids(2, rows), settings)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(message_size, "LARGEST", 64 << 10)
    return bench_of(large.model(tmp_path / "served", ROWS, WIDTH), ROWS, tmp_path)


@contextmanager
def embedded(bench: Bench, folder: Path) -> Iterator[OipDriver]:
    """The embedded server with a cache of its own, and its driver."""
    own = ModelRegistry(bench.registry.folder, cache=folder / "own")
    pair = HotSwapSession(0, open_session(own.get(0).path))
    patches = Patches(own)
    app = make_app("m", pair, own.get, input_name="ids", find_patch=patches.find)
    with serving.running(app) as url:
        driver = OipDriver(ServerInfo(url, "m", 60))
        yield driver
        driver.close()


def swaps_in_the_embedded_server(bench: Bench, folder: Path) -> None:
    with embedded(bench, folder) as driver:
        for number in (1, 2, 1, 0):
            version, batch = bench.version(number)
            bring_up(driver, version, batch)
            assert driver.live() == number
            driver.verify(batch)
    assert {path.suffix for path in (folder / "own").iterdir()} == {".weights", ".data"}  # no whole file


def swaps_of_files(bench: Bench, folder: Path) -> None:
    (home := folder / "models" / "m").mkdir(parents=True)
    driver = FilesDriver(ServerInfo("", "m", 10), repository=str(home.parent))
    for number in (1, 2):
        bring_up(driver, *bench.version(number))
        driver.verify(bench.version(number)[1])
    assert sorted(path.name for path in (home / "current").iterdir()) == [large.FILE, large.DATA, "tta.json"]
    ours = [(home / str(number) / large.DATA).stat().st_ino for number in (1, 2)]
    assert ours[0] == ours[1]  # one file on the disk
    answers = raw_answer(open_session(home / "current" / large.FILE), bench.x)
    assert np.array_equal(answers, bench.version(2)[1].logits)


def exported(bench: Bench, folder: Path) -> None:
    """`versions export`, `verify` and `gc`, as people call them."""
    out = folder / "out" / "two.onnx"
    out.parent.mkdir()
    environment = {"TTA_STORE__PATH": str(bench.settings.store.path)}
    for words in (
        ["export", "2", str(out), "--json"],
        ["verify", "--json"],
        ["gc", "--json"],
        ["diff", "0", "2"],
    ):
        result = CliRunner().invoke(command, ["versions", *words], env=environment, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        if "export" in words:
            assert json.loads(result.output)["bytes"] == bench.registry.get(2).size
    assert np.array_equal(raw_answer(open_session(out), bench.x), bench.version(2)[1].logits)


def available_bytes() -> int:
    """Memory that can be had without swapping."""
    found = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(found["MemAvailable"].split()[0]) << 10


def test_swaps_in_the_embedded_server(bench: Bench, tmp_path: Path) -> None:
    swaps_in_the_embedded_server(bench, tmp_path)


def test_swaps_of_files(bench: Bench, tmp_path: Path) -> None:
    swaps_of_files(bench, tmp_path)


def test_commands_on_the_registry(bench: Bench, tmp_path: Path) -> None:
    exported(bench, tmp_path)


def test_an_export_touches_no_data_file_that_is_right(bench: Bench, tmp_path: Path) -> None:
    exported(bench, tmp_path)
    data = tmp_path / "out" / large.DATA
    before = data.stat()
    shutil.rmtree(tmp_path / "again", ignore_errors=True)
    environment = {"TTA_STORE__PATH": str(bench.settings.store.path)}
    arguments = ["versions", "export", "1", str(tmp_path / "out" / "one.onnx")]
    assert CliRunner().invoke(command, arguments, env=environment).exit_code == 0
    assert (data.stat().st_ino, data.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    data.write_bytes(b"other")
    assert CliRunner().invoke(command, arguments, env=environment).exit_code == 0
    assert data.stat().st_size == before.st_size


def test_a_server_that_cannot_write_its_cache_opens_whole_files(bench: Bench, tmp_path: Path) -> None:
    with embedded(bench, tmp_path) as driver:
        (tmp_path / "own").rmdir() if (tmp_path / "own").is_dir() else None
        (tmp_path / "own").mkdir()
        (tmp_path / "own" / f"{bench.registry.get(0).sha256}.weights").mkdir()
        version, batch = bench.version(1)
        bring_up(driver, version, batch)
        driver.verify(batch)


def test_the_first_version_in_a_folder_is_copied_from_the_source_of_its_owner(
    bench: Bench, tmp_path: Path
) -> None:
    home = tmp_path / "models" / "m"
    shutil.copytree(tmp_path / "served", home / "1")
    (home / "1" / "labels.txt").write_text("a")
    folder = VersionFolder(home, large.FILE, 1)
    staged = folder.stage(bench.registry.get(1))
    assert sorted(path.name for path in staged.iterdir()) == [
        "labels.txt",
        large.FILE,
        large.DATA,
        "tta.json",
    ]
    told = json.loads((staged / "tta.json").read_text())
    assert told["data"] == bench.registry.data()
    assert not (staged / large.DATA).samefile(home / "1" / large.DATA)


def test_where_the_registry_is_on_another_file_system_versions_share_one_copy(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def on_one_file_system(source: Path, target: Path) -> None:
        if tmp_path / "models" not in Path(source).parents:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, target)

    monkeypatch.setattr(os, "link", on_one_file_system)
    (home := tmp_path / "models" / "m").mkdir(parents=True)
    folder = VersionFolder(home, large.FILE, 0)
    for number in (1, 2):
        folder.stage(bench.registry.get(number))
        folder.place(number)
    assert (home / "1" / large.DATA).samefile(home / "2" / large.DATA)
    assert not (home / "1" / large.DATA).samefile(bench.registry.get(0).path.parent / large.DATA)
    (home / "1" / "tta.json").write_text("{}")  # of an owner, who may change the file
    folder.prune({1})
    folder.stage(bench.registry.get(2))
    folder.place(2)
    assert not (home / "1" / large.DATA).samefile(home / "2" / large.DATA)


@pytest.mark.parametrize("file", ["model.onnx", "m/1/model.onnx"])
@pytest.mark.parametrize("local", [True, False])
def test_platforms_read_the_data_beside_the_graph(
    bench: Bench, tmp_path: Path, file: str, local: bool
) -> None:
    where = str(tmp_path / "volume") if local else "memory://bucket/large"
    store = UriStore(where, None, "m", file, None)
    version, batch = bench.version(1)
    store.write(version)
    assert store.has(1)
    fs = fsspec.filesystem("file" if local else "memory")
    fs.get(f"{where.removeprefix('memory:/')}/m/1", str(tmp_path / "pod"), recursive=True)
    (graph,) = (tmp_path / "pod").rglob("model.onnx")
    assert np.array_equal(raw_answer(open_session(graph), bench.x), batch.logits)


def test_an_upload_carries_the_data_up_to_the_limit_of_a_call(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = Upload(1, lambda: {"name": "m"}, large.FILE, [], lambda: True)
    version = bench.registry.get(1)
    assert set(upload.stage(version, {1})) == {large.FILE, large.DATA}
    assert {name for name in upload.parameters(2) if name != "config"} == {
        f"file:2/{large.FILE}", f"file:2/{large.DATA}"
    }  # fmt: skip
    monkeypatch.setattr(triton_repository, "GRPC_BYTES", 100 << 10)
    with pytest.raises(SwapError, match=r"more than gRPC takes \(2 GB\): set the driver's option repository"):
        upload.stage(version, {1})


def test_a_shared_folder_reads_no_version_that_no_call_holds(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "models" / "m"
    shutil.copytree(tmp_path / "served", home / "1")
    shared = SharedFolder(VersionFolder(home, large.FILE, 1))
    assert {large.FILE, large.DATA} <= set(shared.stage(bench.registry.get(1), {1}))
    monkeypatch.setattr(triton_repository, "GRPC_BYTES", 100 << 10)
    assert shared.stage(bench.registry.get(2), {1}) == {}
    shared.parameters(3)
    assert open_session(home / "3" / large.FILE)


@pytest.mark.slow
def test_a_model_above_two_gib_from_end_to_end(tmp_path: Path) -> None:
    if not os.environ.get("LARGE"):
        pytest.skip("takes minutes and 10 GiB of memory: LARGE=1")
    if (free := available_bytes()) < NEEDED_BYTES:
        pytest.skip(f"{free >> 30} GiB of memory are free, {NEEDED_BYTES >> 30} are needed")
    path = large.model(tmp_path / "served", ABOVE, WIDE)
    assert (path.parent / large.DATA).stat().st_size > message_size.MESSAGE
    assert (
        sum(
            item.data_location == onnx.TensorProto.EXTERNAL
            for item in onnx.load(path, load_external_data=False).graph.initializer
        )
        == 5
    )
    report = inspect(path, ("tent",))
    assert report.adapters == {"tent": None} and not report.obstacles and report.parity["version"] < 1e-3
    bench = bench_of(path, ABOVE, tmp_path)
    swaps_in_the_embedded_server(bench, tmp_path)
    swaps_of_files(bench, tmp_path)
    exported(bench, tmp_path)
