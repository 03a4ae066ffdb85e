"""`model check`: what a file has, who can adapt it, and every obstacle at once; never a traceback."""

import json
import random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from tests.models.test_onnx_import import lively, parsed, saved
from tests.models.test_unfold import by_torchscript
from tta_agent import testing
from tta_agent.cli.main import app
from tta_agent.core import plugins
from tta_agent.models import inspection
from tta_agent.models.inspection import inspect

LEARNING = {"adamixbn", "deyo", "eata", "norm", "roid", "sar", "tent"}


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folded")
    np.savez(folder / "source.npz", inputs=testing.batch(64, shift=0.0).numpy())
    return by_torchscript(lively(testing.tiny_net("batch")), testing.batch(2), folder / "net.onnx")


def check(*words):
    result = CliRunner().invoke(app, ["model", "check", *map(str, words)], env={"COLUMNS": "200"})
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_a_folded_file_with_source_inputs_adapts_by_every_method_that_it_can_take(folded):
    status, text = check(folded, "--source-data", folded.parent / "source.npz", "--json")
    told = json.loads(text[text.index("{") :])
    assert (status, told["adapts"]) == (0, True)
    assert told["layers"] == {"unfolded": 2}
    assert {name for name, reason in told["adapters"].items() if reason is None} >= LEARNING
    assert told["answer"]["kind"] == "logits" and told["answer"]["classes"] == 4
    assert told["parameters"]["scale and shift"] == 32
    assert 0 < max(told["parity"].values()) < 1e-4
    assert 0 < told["version"]["bytes"] <= told["version"]["file"]
    assert min(told["cost"].values()) > 0


def test_without_them_it_says_what_is_missing_and_who_remains(folded):
    status, text = check(folded)
    assert status == 0
    assert "2 BatchNorms are folded" in text and "--source-data" in text
    assert "adapts by: " in text and "tent" in text.rpartition("adapts by: ")[2]
    assert "norm" not in text.rpartition("adapts by: ")[2].split(", ")


def test_source_data_that_do_not_fit_are_one_obstacle_and_the_rest_is_checked(folded, tmp_path):
    np.savez(tmp_path / "other.npz", inputs=np.zeros((4, 3, 8, 8), np.float32))
    found = inspect(folded, source_data=tmp_path / "other.npz")
    assert found.obstacles[0].found.startswith("TTA_MODEL__SOURCE_DATA")
    assert found.adapts and found.layers == {"scale and shift": 2}


def test_all_obstacles_are_told_at_once(tmp_path):
    node = helper.make_node
    nodes = [
        node("Bernoulli", ["x"], ["a"]),
        node("ConvInteger", ["a", "k"], ["q"]),
        node("NonZero", ["a"], ["y"]),
    ]
    takes = [
        helper.make_tensor_value_info("x", TensorProto.BFLOAT16, ["n", 1, "h", 4]),
        helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]),
    ]
    gives = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])]
    held = [numpy_helper.from_array(np.ones(1, np.float32), name) for name in "sk"]
    path = saved(helper.make_model(helper.make_graph(nodes, "g", takes, gives, held)), tmp_path)
    status, text = check(path, "--json")
    told = " ".join(o["found"] for o in json.loads(text)["obstacles"])
    assert status == 1
    for fact in (
        "2 inputs",
        "'x' is bfloat16",
        "operator Bernoulli (1 nodes)",
        "operator NonZero",
        "quantised (1 nodes)",
    ):
        assert fact in told
    assert all(o["remedy"] for o in json.loads(text)["obstacles"])


@pytest.mark.parametrize(
    ("body", "takes", "fact"),
    [
        ("m = ReduceMean<axes=[2,3], keepdims=0>(x) y = Gemm(m, w)", "float[b, 2, h, 4] x", "leaves the size"),
        ("y = MatMul(x, w)", "float[b, 2, 4, 2] x", "needs a classifier"),
    ],
)  # fmt: skip
def test_what_only_running_it_tells_is_an_obstacle_too(body, takes, fact, tmp_path):
    found = inspect(parsed(body, tmp_path, weights="float[2,2] w = {0.1, 0.2, 0.3, 0.4}", takes=takes))
    assert any(fact in o.found for o in found.obstacles) and not found.adapts


def test_sigmoids_of_several_labels_are_told(tmp_path):
    body = "f = Flatten(x) g = Gemm(f, w) y = Sigmoid(g)"
    weights = "float[2,2] w = {0.1, 0.2, 0.3, 0.4}"
    found = inspect(parsed(body, tmp_path, weights=weights, takes="float[b, 2, 1, 1] x"))
    assert (found.answer["task"], found.answer["kind"], found.answer["classes"]) == (
        "multilabel",
        "sigmoids",
        2,
    )
    assert found.answer["logits_before"]


def test_a_file_that_is_missing_is_a_message(tmp_path):
    result = CliRunner().invoke(app, ["model", "check", str(tmp_path / "none.onnx")])
    assert "no such file" in str(result.exception)


def operator(draw, graph, node):
    node.op_type = draw.choice(
        ["Relu", "Conv", "Resize", "Add", "If", "LSTM", "Softmax", "Shape", "Clip", ""]
    )


def missing_node(draw, graph, node):
    del graph.node[draw.randrange(len(graph.node))]


def wiring(draw, graph, node):
    node.input[draw.randrange(len(node.input))] = draw.choice(["", "nothing", node.output[0], "input"])


def sizes_of_weights(draw, graph, node):
    item = draw.choice(graph.initializer)
    item.dims[:] = [draw.choice([-1, 0, 1, 3, 2**20, 2**40]) for _ in item.dims]


def attributes(draw, graph, node):
    for attribute in node.attribute:
        attribute.ints[:] = [draw.choice([-3, 0, 7, 2**31]) for _ in attribute.ints]
        attribute.i = draw.choice([-1, 0, 5, 2**40])


def ports(draw, graph, node):
    value = draw.choice([*graph.input, *graph.output])
    value.type.tensor_type.elem_type = draw.choice([0, 1, 7, 10, 11])
    for size in value.type.tensor_type.shape.dim:
        size.dim_value = draw.choice([-1, 0, 1, 8, 2**33])


def some_bytes(draw, data):
    changed = bytearray(data)
    for _ in range(draw.randint(1, 20)):
        changed[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(changed)


CHANGES = (operator, missing_node, wiring, sizes_of_weights, attributes, ports)


def mutants(proto, count):
    """Files with bytes, nodes, names, attributes and sizes changed at random."""
    draw, whole = random.Random(0), proto.SerializeToString()
    for i in range(count):
        kind = i % (2 + len(CHANGES))
        if kind < 2:
            yield some_bytes(draw, whole) if kind else whole[: draw.randrange(len(whole))]
            continue
        other = onnx.ModelProto.FromString(whole)
        CHANGES[kind - 2](draw, other.graph, draw.choice([n for n in other.graph.node if n.input]))
        yield other.SerializeToString()


@pytest.mark.parametrize("part", range(4))
def test_hundreds_of_mutated_files_are_answered_without_a_traceback(part, folded, tmp_path, monkeypatch):
    monkeypatch.setattr(plugins, "available", lambda kind: ["frozen", "tent"])
    monkeypatch.setattr(inspection, "TRIES", 1)
    proto = onnx.load(folded)
    able = 0
    for i, data in enumerate(mutants(proto, 320)):
        if i % 4 != part:
            continue
        path = tmp_path / "m.onnx"
        path.write_bytes(data)
        found = inspect(path)
        assert found.obstacles or found.adapts
        assert all(o.found for o in found.obstacles)
        able += found.adapts
    assert able > 0 or part
