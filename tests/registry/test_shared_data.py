"""Registries of graphs with data files: version 0's, which all versions share."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import numpy as np
import onnx
import pytest

from tests.parts import large
from tta_agent.core.errors import RegistryError
from tta_agent.models import message_size, onnx_export, onnx_import
from tta_agent.models.ort_sessions import open_session, open_version, raw_answer
from tta_agent.registry.compare import compare
from tta_agent.registry.registry import ModelRegistry

ROWS, WIDTH = 64, 512
X = large.ids(2, ROWS)


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> onnx_import.OnnxModel:
    monkeypatch.setattr(message_size, "LARGEST", 64 << 10)
    return onnx_import.load(large.model(tmp_path / "served", ROWS, WIDTH))


def filled(where: str | Path, built: onnx_import.OnnxModel, cache: Path | None = None) -> ModelRegistry:
    """A registry with the source and one version."""
    registry = ModelRegistry(where, cache)
    registry.ensure_source("f", lambda: (built.graph.patched({}), X), built.graph.data)
    tensors = onnx_export.floats(built.module)
    moved = {**tensors, "norm.bias": tensors["norm.bias"] + 1}
    registry.add(built.graph.patched(moved), registry.get(0), {})
    return registry


@pytest.fixture(params=["folder", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path, built: onnx_import.OnnxModel) -> ModelRegistry:
    fsspec.filesystem("memory").store.clear()
    where = tmp_path / "versions" if request.param == "folder" else "memory://bucket/versions"
    return filled(where, built, tmp_path / "cache")


def test_versions_have_their_data_beside_them(registry: ModelRegistry, tmp_path: Path) -> None:
    size = (tmp_path / "served" / large.DATA).stat().st_size
    (tmp_path / "served" / large.DATA).unlink()  # the registry has its own
    answers = []
    for number in (0, 1):
        version = registry.get(number)
        assert list(version.data) == [large.DATA] and version.size > ROWS * WIDTH * 4
        answers.append(raw_answer(open_version(version, open_session), X))
    assert not np.allclose(*answers, atol=1e-1)
    assert registry.manifest(1)["artefact"] == "delta"
    told = registry.manifest(0)["data"][large.DATA]
    assert told == {"sha256": registry.data()[large.DATA], "bytes": size}


def test_a_graph_in_bytes_finds_them(registry: ModelRegistry, built: onnx_import.OnnxModel) -> None:
    found = registry.data_files()
    session = open_session(built.graph.patched({}), data=found)
    assert np.array_equal(raw_answer(session, X), raw_answer(open_session(registry.get(0).path), X))


def test_on_one_file_system_they_are_there_once(tmp_path: Path, built: onnx_import.OnnxModel) -> None:
    registry = filled(tmp_path / "versions", built)
    paths = [registry.get(number).path.parent / large.DATA for number in (0, 1)]
    assert paths[0].samefile(paths[1]) and paths[0] != paths[1]
    assert not paths[0].samefile(tmp_path / "served" / large.DATA)  # which its owner may overwrite


def test_a_version_that_is_kept_whole_finds_them_in_the_cache(
    registry: ModelRegistry, built: onnx_import.OnnxModel
) -> None:
    proto = onnx.ModelProto.FromString(built.graph.patched({}))
    proto.producer_name = "another"  # no change of tensors
    number = registry.add(proto.SerializeToString(), registry.get(0), {}).number
    assert registry.manifest(number)["artefact"] == "full"
    version = registry.get(number)
    assert version.path.parent == registry.cache.folder
    assert np.array_equal(*(raw_answer(open_session(registry.get(n).path), X) for n in (0, number)))


def test_one_that_was_lost_from_the_cache_comes_back(registry: ModelRegistry) -> None:
    lost = registry.get(1).path.parent / large.DATA
    lost.unlink()
    assert registry.get(1).path.parent / large.DATA == lost and lost.is_file()


def test_damage_is_found(tmp_path: Path, built: onnx_import.OnnxModel) -> None:
    registry = filled(tmp_path / "versions", built)
    assert (registry.check(0), registry.check(1)) == ("sound", "sound")
    path = registry.get(0).path.parent / large.DATA
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.unlink()
    path.write_bytes(content)
    anew = ModelRegistry(tmp_path / "versions")
    with pytest.raises(RegistryError, match=r"version 0 is damaged: its data file model.onnx.data has"):
        anew.check(0)
    with pytest.raises(RegistryError, match=r"version 0 is damaged: its data file model.onnx.data has"):
        anew.get(0)
    path.unlink()
    with pytest.raises(RegistryError, match="is gone"):
        anew.get(0)


def test_retention_keeps_them(registry: ModelRegistry) -> None:
    registry.reject(1, "rejected", [])
    registry.gc(1)
    registry.cache.prune()
    assert registry.get(0).size > ROWS * WIDTH * 4


def test_versions_are_compared(registry: ModelRegistry) -> None:
    (layer,) = compare(registry, 0, 1)["tensors"]["layers"]
    assert layer["layer"] == "norm" and layer["distance"] == pytest.approx(WIDTH**0.5)


def test_a_manifest_without_data_is_as_before(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "versions")
    registry.ensure_source("f", lambda: (b"graph", X))
    assert registry.data_files() is None and not registry.get(0).data
    assert "data" not in json.loads((tmp_path / "versions" / "000000" / "manifest.json").read_text())
