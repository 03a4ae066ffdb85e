"""Graphs without their large tensors: sessions of them answer as those of whole files do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

from tta_agent.core.errors import GraphError, RegistryError
from tta_agent.core.types import Array
from tta_agent.models import weight_delta
from tta_agent.models.ort_sessions import open_session, raw_answer
from tta_agent.models.skeleton import LARGE, Skeleton

X = np.random.default_rng(1).normal(size=(3, 32)).astype(np.float32)


def graph(seed: int) -> bytes:
    """Two layers [n, 32] -> [n, 10]: two large tensors, two small ones, and a whole number."""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (32, 64), "b1": (64,), "w2": (64, 10), "b2": (10,)}
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"]),
        helper.make_node("Reshape", ["y", "shape"], ["logits"]),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    initializers.append(numpy_helper.from_array(np.array([-1, 10], np.int64), "shape"))
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, ["n", 32])], [value("logits", TensorProto.FLOAT, ["n", 10])],
        initializers,
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def answer(of: object) -> Array:
    return raw_answer(open_session(of), X)  # type: ignore[arg-type]


def changed(names: set[str]) -> bytes:
    """Tensors of another graph."""
    items = onnx.ModelProto.FromString(graph(9)).graph.initializer
    return bytes(
        save({item.name: numpy_helper.to_array(item).copy() for item in items if item.name in names})
    )


@pytest.mark.parametrize("names", [set(), {"w1"}, {"b2"}, {"w2", "b1"}, {"w1", "w2", "b1", "b2"}])
def test_a_patch_answers_as_the_whole_graph(names: set[str], tmp_path: Path) -> None:
    patched = Skeleton(graph(0), tmp_path / "weights").patched(changed(names))
    assert np.array_equal(answer(patched), answer(weight_delta.compose(graph(0), changed(names))))
    assert np.array_equal(answer(patched), answer(graph(0))) == (not names)


def test_large_tensors_are_in_the_file_only_and_changed_ones_nowhere(tmp_path: Path) -> None:
    skeleton = Skeleton(graph(0), tmp_path / "weights")
    patched = skeleton.patched(changed({"w1", "b1"}))
    assert patched.tensors.keys() == {"w1"}  # the other one is small
    slots = {item.name: item for item in onnx.ModelProto.FromString(patched.model).graph.initializer}
    assert {name for name, slot in slots.items() if slot.data_location == TensorProto.EXTERNAL} == {
        "w1",
        "w2",
    }
    assert all(len(slot.raw_data) < LARGE for slot in slots.values())


def test_a_file_with_other_bytes_is_written_anew(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    expected, first = answer(graph(0)), Skeleton(graph(0), weights)
    kept = weights.stat().st_mtime_ns
    assert Skeleton(graph(0), weights).sound() and weights.stat().st_mtime_ns == kept
    with weights.open("r+b") as file:
        file.seek(100)
        file.write(b"damage")
    assert not first.sound()
    assert np.array_equal(answer(Skeleton(graph(0), weights).patched(save({}))), expected)


def test_a_tensor_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    skeleton = Skeleton(graph(0), tmp_path / "weights")
    with pytest.raises(RegistryError, match="no tensor 'w7'"):
        skeleton.patched(save({"w7": X}))
    with pytest.raises(GraphError, match="cannot be loaded"):
        answer(skeleton.patched(save({"w1": X})))
