"""Graphs that are optimised and packed once: sessions of them answer as others, whichever tensors are exchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

from tests.parts import large, serving
from tta_agent.core.types import Array, ServerInfo
from tta_agent.models import weight_delta
from tta_agent.models.ort_sessions import HotSwapSession, open_session, raw_answer
from tta_agent.models.packed import PackedGraph, machine
from tta_agent.models.patched_graph import PatchedGraph
from tta_agent.models.skeleton import Skeleton
from tta_agent.registry import patches
from tta_agent.registry.patches import Patches
from tta_agent.registry.registry import ModelRegistry
from tta_agent.serving.drivers.oip import OipDriver
from tta_agent.serving.server.app import make_app
from tta_agent.serving.swap import bring_up, golden

ROWS, WIDTH = 64, 512
X = large.ids(3, ROWS)


@pytest.fixture
def graph(tmp_path: Path) -> bytes:
    """LayerNorm and a matrix, in one message."""
    return bytes(onnx.load(large.model(tmp_path / "served", ROWS, WIDTH)).SerializeToString())


def moved(name: str, by: float = 1.5) -> bytes:
    shape = {"norm.bias": (WIDTH,), "norm.weight": (WIDTH,), "head.weight": (large.CLASSES, WIDTH)}[name]
    return bytes(save({name: np.full(shape, by, np.float32)}))


def answer(graph: bytes | PatchedGraph) -> Array:
    return raw_answer(open_session(graph), X)


@pytest.mark.parametrize("name", ["norm.bias", "norm.weight"])
def test_a_packed_graph_answers_as_the_whole_one(graph: bytes, tmp_path: Path, name: str) -> None:
    skeleton = Skeleton(graph, tmp_path / "weights")
    plain = skeleton.patched(moved(name))
    skeleton.pack()
    packed = skeleton.patched(moved(name))
    assert (plain.optimised, packed.optimised) == (False, True)
    whole = answer(weight_delta.compose(graph, moved(name)))
    assert np.allclose(answer(packed), whole, atol=1e-4) and np.array_equal(answer(plain), whole)
    assert not np.allclose(answer(packed), answer(graph), atol=1e-2)


def test_a_matrix_that_is_packed_is_not_exchanged(graph: bytes, tmp_path: Path) -> None:
    skeleton = Skeleton(graph, tmp_path / "weights")
    skeleton.pack()
    found = skeleton.patched(moved("head.weight"))
    assert not found.optimised
    assert np.array_equal(answer(found), answer(weight_delta.compose(graph, moved("head.weight"))))


def test_one_that_was_touched_is_not_used(graph: bytes, tmp_path: Path) -> None:
    skeleton = Skeleton(graph, tmp_path / "weights")
    skeleton.pack()
    (folder,) = tmp_path.glob(f"*.{machine()}.packed")
    assert skeleton.patched(moved("norm.bias")).optimised
    Skeleton(graph, tmp_path / "weights").pack()  # by another server, of the same folder
    assert not skeleton.patched(moved("norm.bias")).optimised
    for path in folder.iterdir():
        path.unlink()
    assert not skeleton.patched(moved("norm.bias")).optimised


def test_nothing_is_kept_where_normalisations_go_into_convolutions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = {
        "w": (256, 3, 1, 1),
        **{name: (256,) for name in ("b", "scale", "shift", "mean", "var")},
        "h": (256, 10),
    }
    items = [numpy_helper.from_array(rng.uniform(0.5, 1, s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"]),
        helper.make_node("GlobalAveragePool", ["n"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "h"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [value("y", TensorProto.FLOAT, ["n", 10])],
        items,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    skeleton = Skeleton(bytes(model.SerializeToString()), tmp_path / "weights")
    skeleton.pack()
    assert not list(tmp_path.glob("*.packed")) and not list(tmp_path.glob(".*"))
    tensors = bytes(save({"scale": np.full(256, 2, np.float32)}))
    assert not skeleton.patched(tensors).optimised


def test_a_folder_that_cannot_be_written_is_done_without(graph: bytes, tmp_path: Path) -> None:
    skeleton = Skeleton(graph, tmp_path / "weights")
    (tmp_path / f"weights.{machine()}.packed").write_text("in the way")
    skeleton.pack()
    assert not skeleton.patched(moved("norm.bias")).optimised
    assert PackedGraph(PatchedGraph(graph, tmp_path, {}), tmp_path / "other").patched({}) is not None


def test_the_embedded_server_swaps_packed_versions(
    graph: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patches, "PACKED", 0)
    registry = ModelRegistry(tmp_path / "versions")
    registry.ensure_source("f", lambda: (graph, X))
    for number in (1, 2):
        registry.add(weight_delta.compose(graph, moved("norm.bias", number)), registry.get(0), {})
    found = Patches(registry, packed=True)
    patch = found.find(1)
    assert patch is not None and patch.graph.optimised
    pair = HotSwapSession(0, open_session(registry.get(0).path))
    with serving.running(make_app("m", pair, registry.get, input_name="ids", find_patch=found.find)) as url:
        driver = OipDriver(ServerInfo(url, "m", 20))
        for number in (1, 2, 1):
            version = registry.get(number)
            batch = golden(open_session(version.path), X)
            bring_up(driver, version, batch)
            driver.verify(batch)
            assert driver.live() == number
        driver.close()
