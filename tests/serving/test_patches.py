"""The embedded server opens versions as version 0 with other tensors, and composes no whole file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from starlette.exceptions import HTTPException

from tests.models.test_skeleton import graph
from tests.parts import serving
from tta_agent.core.errors import SwapError
from tta_agent.core.types import Golden, ServerInfo
from tta_agent.models import onnx_export, onnx_import
from tta_agent.models.ort_sessions import HotSwapSession, open_session, raw_answer
from tta_agent.registry.patches import Patch, Patches
from tta_agent.registry.registry import ModelRegistry
from tta_agent.serving.drivers.files import FilesDriver
from tta_agent.serving.drivers.oip import OipDriver
from tta_agent.serving.server.app import make_app
from tta_agent.serving.server.repository import Repository
from tta_agent.serving.server.warming import Warmth
from tta_agent.serving.swap import bring_up, golden

X = np.random.default_rng(2).normal(size=(2, 32)).astype(np.float32)


def moved(number: int) -> bytes:
    """The graph with one tensor of version `number`."""
    model = onnx.ModelProto.FromString(graph(0))
    for item in model.graph.initializer:
        if item.name == "b2":
            item.raw_data = (numpy_helper.to_array(item) + number).tobytes()
    return bytes(model.SerializeToString())


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    """The agent's: three versions."""
    found = ModelRegistry(tmp_path / "versions")
    found.ensure_source("f", lambda: (graph(0), X))
    for number in (1, 2):
        found.add(moved(number), found.get(0), {})
    return found


@contextmanager
def served(folder: Path) -> Iterator[tuple[OipDriver, ModelRegistry]]:
    """A server with a cache of its own, and a driver that asks it."""
    own = ModelRegistry(folder / "versions", cache=folder / "own")
    pair = HotSwapSession(0, open_session(own.get(0).path))
    app = make_app("m", pair, own.get, input_name="x", find_patch=Patches(own).find)
    with serving.running(app) as url:
        driver = OipDriver(ServerInfo(url, "m", 20))
        yield driver, own
        driver.close()


def expected(registry: ModelRegistry, number: int) -> Golden:
    return golden(open_session(registry.get(number).path), X)


def test_swaps_need_no_whole_file_in_the_server(registry: ModelRegistry, tmp_path: Path) -> None:
    with served(tmp_path) as (driver, own):
        for number in (1, 2, 1):
            bring_up(driver, registry.get(number), expected(registry, number))
            assert driver.live() == number
            driver.verify(expected(registry, number))
    assert [path.suffix for path in own.cache.folder.iterdir()] == [".weights"]  # 0 is whole in the registry


def test_damaged_tensors_are_refused_and_the_version_before_serves(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    tensors = tmp_path / "versions" / "000001" / "tensors.safetensors"
    content = bytearray(tensors.read_bytes())
    version, batch = registry.get(1), expected(registry, 1)
    content[-1] ^= 1
    tensors.write_bytes(content)
    with served(tmp_path) as (driver, _):
        with pytest.raises(SwapError, match="version 1 is damaged: its tensors have sha256"):
            driver.publish(version, batch)
        assert driver.live() == 0
        driver.verify(expected(registry, 0))


def test_a_version_that_is_not_there_is_named(registry: ModelRegistry, tmp_path: Path) -> None:
    with (
        served(tmp_path) as (driver, _),
        pytest.raises(SwapError, match=r"404: version 9 is not in .*there are \[0, 1"),
    ):
        driver.publish(replace(registry.get(1), number=9), expected(registry, 1))


def test_a_version_without_a_hash_of_its_tensors_is_opened_whole(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    manifest = tmp_path / "versions" / "000001" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("tensors_sha256", "former"))
    with served(tmp_path) as (driver, own):
        bring_up(driver, registry.get(1), expected(registry, 1))
        assert driver.live() == 1
    assert (own.cache.folder / f"{registry.get(1).sha256}.onnx").exists()


def test_a_cache_that_cannot_be_written_is_done_without(
    registry: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(tmp_path) as (driver, own):
        own.cache.folder.mkdir()
        (own.cache.folder / f"{registry.get(0).sha256}.weights").mkdir()  # no file can take its place
        bring_up(driver, registry.get(2), expected(registry, 2))
        assert driver.live() == 2 and len(list(own.cache.folder.iterdir())) == 1
    monkeypatch.setattr(tempfile, "mkdtemp", _nowhere)
    (tmp_path / "own").rename(tmp_path / "before")
    with served(tmp_path) as (driver, own):
        own.cache.folder.mkdir()
        (own.cache.folder / f"{registry.get(0).sha256}.weights").mkdir()
        bring_up(driver, registry.get(1), expected(registry, 1))
        assert driver.live() == 1 and (own.cache.folder / f"{registry.get(1).sha256}.onnx").exists()


def _nowhere(**_: Any) -> Any:
    raise OSError(28, "No space left on device")


def test_a_swap_asks_twice_and_a_check_asks_anew(registry: ModelRegistry, tmp_path: Path) -> None:
    asked: list[str] = []
    with served(tmp_path) as (driver, _):
        infer = driver._client.infer

        def counted(x: Any, path: str = "", model: str | None = None) -> Any:
            asked.append(path)
            return infer(x, path, model)

        driver._client.infer = counted  # type: ignore[method-assign]
        batch = expected(registry, 1)
        bring_up(driver, registry.get(1), batch)
        assert asked == ["/versions/1", ""]
        driver.verify(batch)
        assert asked == ["/versions/1", "", ""]
        driver.publish(registry.get(2), expected(registry, 2))
        driver.activate(registry.get(2))
        other = X + 1
        driver.verify(Golden(other, raw_answer(open_session(moved(2)), other)))


def test_weights_in_files_of_their_own_reach_each_server(tmp_path: Path) -> None:
    path = tmp_path / "served.onnx"
    onnx.save(
        onnx.ModelProto.FromString(graph(0)),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=64,
    )
    built = onnx_import.load(path)
    registry = ModelRegistry(tmp_path / "versions")
    registry.ensure_source("f", lambda: (built.graph.patched({}), X))
    tensors = {name: tensor + 0.1 for name, tensor in onnx_export.floats(built.module).items()}
    version = registry.add(built.graph.patched(tensors), registry.get(0), {})
    batch = expected(registry, 1)
    assert not np.allclose(batch.logits, raw_answer(open_session(path), batch.x))
    with served(tmp_path) as (driver, _):
        bring_up(driver, version, batch)
        assert driver.live() == 1
    (home := tmp_path / "models" / "m").mkdir(parents=True)
    files = FilesDriver(ServerInfo("", "m", 10), repository=str(home.parent))
    bring_up(files, version, batch)
    assert [file.name for file in sorted((home / "current").iterdir())] == ["model.onnx", "tta.json"]


def test_a_swap_reads_and_verifies_a_version_once(registry: ModelRegistry, tmp_path: Path) -> None:
    own, read = ModelRegistry(tmp_path / "versions", cache=tmp_path / "own"), list[int]()
    patches, pair = Patches(own), HotSwapSession(0, open_session(own.get(0).path))

    def find(number: int) -> Patch | None:
        read.append(number)
        return patches.find(number)

    found = Repository("m", pair, own.get, open_session, find, Warmth())
    for activate in (False, True):
        assert found.load(1, activate=activate, sha256=registry.get(1).sha256) == registry.get(1).sha256
    assert (found.live, read) == (1, [1])
    with pytest.raises(HTTPException, match="another registry"):
        found.load(1, activate=True, sha256="0" * 64)
