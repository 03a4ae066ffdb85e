"""A model whose weights stand in a file beside it: of a few kilobytes, or above the 2 GiB of one message."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tta_agent.core.types import Array
from tta_agent.models import external_data

FILE, DATA, CLASSES, WORDS = "model.onnx", "model.onnx.data", 10, 4
_PAGE = 4096
_SAID = 8  # values of a row that are not 0: the rest of a wide row takes no place on the disk


def model(folder: Path, rows: int, width: int) -> Path:
    """Ids [n, WORDS] -> rows of a table, their mean -> LayerNorm -> logits [n, CLASSES]."""
    rng = np.random.default_rng(0)
    tensors = {
        "norm.weight": np.ones(width, np.float32),
        "norm.bias": np.zeros(width, np.float32),
        "head.weight": rng.normal(size=(CLASSES, width)).astype(np.float32),
        "head.bias": np.zeros(CLASSES, np.float32),
    }
    folder.mkdir(parents=True, exist_ok=True)
    table = np.memmap(folder / DATA, np.float32, "w+", shape=(rows, width))
    table[:, :_SAID] = rng.normal(size=(rows, _SAID)) * 20
    table.flush()
    items = [TensorProto(name="table.weight", data_type=TensorProto.FLOAT, dims=(rows, width))]
    external_data.place(items[0], DATA, 0, table.nbytes)
    with (folder / DATA).open("r+b") as file:
        file.seek(0, 2)
        for name, value in tensors.items():
            file.seek(-file.tell() % _PAGE, 1)
            items.append(numpy_helper.from_array(value, name))
            external_data.place(items[-1], DATA, file.tell(), value.nbytes)
            file.write(value.tobytes())
    items.append(numpy_helper.from_array(np.array([1], np.int64), "axes"))
    nodes = [
        helper.make_node("Gather", ["table.weight", "ids"], ["words"], name="table"),
        helper.make_node("ReduceMean", ["words", "axes"], ["mean"], name="mean", keepdims=0),
        helper.make_node("LayerNormalization", ["mean", "norm.weight", "norm.bias"], ["h"], name="norm"),
        helper.make_node("Gemm", ["h", "head.weight", "head.bias"], ["logits"], name="head", transB=1),
    ]
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes, "g", [value("ids", TensorProto.INT64, ["n", WORDS])],
        [value("logits", TensorProto.FLOAT, ["n", CLASSES])], items,
    )  # fmt: skip
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (folder / FILE).write_bytes(proto.SerializeToString())
    return folder / FILE


def ids(count: int, rows: int) -> Array:
    """Samples [count, WORDS] as the stream carries them."""
    return np.random.default_rng(3).integers(0, rows, (count, WORDS)).astype(np.float32)


def changed(proto: bytes) -> set[str]:
    """Names of the tensors that a graph has in its own message, of those that stood in the file."""
    items = onnx.ModelProto.FromString(proto).graph.initializer
    return {item.name for item in items if item.data_location != TensorProto.EXTERNAL} - {"axes"}
