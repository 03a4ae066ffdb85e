"""Files with sizes that no model has, and damaged ones: one to three lines, no traceback, and no memory."""

import random
import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests import worlds
from tta_agent import testing
from tta_agent.core.errors import ConfigError
from tta_agent.models import loader, onnx_export

FLOAT, ROWS = TensorProto.FLOAT, ["n", 2, 4, 4]
HUGE = (0, -1, -2, 2**31, 2**40, 2**62, 10**12, -(2**63))


def graph(*nodes, takes=ROWS, answers=("n", 3), weights=None, **sizes):
    """[n, 2, 4, 4] through the nodes from x to n, then the mean over the places and a linear layer."""
    tail = [
        helper.make_node("ReduceMean", ["n", "axes"], ["m"], keepdims=0),
        helper.make_node("Gemm", ["m", "w"], ["y"]),
    ]
    held = {"axes": [2, 3], **sizes}
    weights = weights or numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    kernel = numpy_helper.from_array(np.zeros((2, 2, 3, 3), np.float32), "kernel")
    made = helper.make_graph(
        [*(nodes or (helper.make_node("Relu", ["x"], ["n"]),)), *tail],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, takes)],
        [helper.make_tensor_value_info("y", FLOAT, answers)],
        [weights, kernel, *(numpy_helper.from_array(np.array(v, np.int64), k) for k, v in held.items())],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def tensor(dims, size):
    held = TensorProto(name="w", data_type=FLOAT, dims=dims)
    held.raw_data = b"\0" * size
    return held


def mean_of(op, **attributes):
    """A constant of the size `s`, its mean added to the input."""
    return (
        helper.make_node(op, ["s"], ["c"], **attributes),
        helper.make_node("ReduceMean", ["c"], ["k"], keepdims=0),
        helper.make_node("Add", ["x", "k"], ["n"]),
    )


def node(op, *inputs, **attributes):
    return helper.make_node(op, ["x", *inputs], ["n"], **attributes)


CASES = {
    "sample": (graph(takes=["n", 2, 10**12, 4]), "tensor 'x' has shape"),
    "sample that overflows": (graph(takes=["n", 2, 2**62, 2**62]), "tensor 'x' has shape"),
    "sample of many gigabytes": (graph(takes=["n", 2, 50_000, 50_000]), "at most 1e+09 values"),
    "sample of negative size": (graph(takes=["n", 2, -5, 4]), "no negative size"),
    "sample of many axes": (graph(takes=["n", *[2] * 98]), "tensor 'x' has shape"),
    "no axes": (graph(takes=[]), "expected one float input [batch, ...]"),
    "no sample": (graph(takes=["n"]), "takes samples of shape []"),
    "batch": (graph(takes=[10**15, 2, 4, 4]), "tensor 'x' has shape"),
    "large batch": (graph(takes=[10**5, 2, 4, 4]), "insists on batches of 100000"),
    "negative batch": (graph(takes=[-3, 2, 4, 4]), "tensor 'x' has shape"),
    "answer": (graph(answers=["n", 10**18]), "tensor 'y' has shape"),
    "weights": (graph(weights=tensor([10**6, 10**9], 24)), "tensor 'w' has shape"),
    "negative weights": (graph(weights=tensor([-2, 3], 24)), "tensor 'w' has shape"),
    "weights that are cut": (graph(weights=tensor([2, 3], 8)), "has shape [2, 3] and 8 bytes; expected 24"),
    "too many weights": (graph(weights=tensor([2, 3], 80)), "has shape [2, 3] and 80 bytes; expected 24"),
    "constant": (graph(*mean_of("ConstantOfShape"), s=[10**6, 10**6]), "tensor 'c' has shape"),
    "negative constant": (graph(*mean_of("ConstantOfShape"), s=[-1, 10**6]), "ConstantOfShape"),
    "tile": (graph(node("Tile", "s"), s=[1, 1, 10**6, 10**6]), "tensor 'n' has shape"),
    "pad": (graph(node("Pad", "s"), s=[0, 0, 10**9, 10**9, 0, 0, 0, 0]), "tensor 'n' has shape"),
    "reshape": (graph(node("Reshape", "s"), s=[-1, 2, 10**9, 4]), "tensor 'n' has shape"),
    "padded convolution": (graph(node("Conv", "kernel", pads=[10**8] * 4)), "tensor 'n' has shape"),
    "dilated convolution": (graph(node("Conv", "kernel", dilations=[2**40] * 2)), "tensor 'n' has shape"),
    "groups": (graph(node("Conv", "kernel", group=2**40)), "Conv"),
    "pooling": (graph(node("AveragePool", kernel_shape=[2**31] * 2, pads=[2**30] * 4)), ""),
    "gather": (graph(node("Gather", "s", axis=2), s=[10**15] * 3), ""),
    "axis": (graph(node("Softmax", axis=2**40)), ""),
    "parts": (graph(node("Split", axis=1, num_outputs=10**9)), "1000000000 parts and has 1 outputs"),
    "circle": (graph(helper.make_node("Add", ["x", "n"], ["n"])), ""),
    "nothing to read": (graph(helper.make_node("Relu", ["nothing"], ["n"])), ""),
}  # fmt: skip


def refusal(model, path):
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ConfigError) as refused:
        loader.load(None, None, None, onnx=path, device="cpu")
    told = str(refused.value)
    assert len(told.splitlines()) <= 3 and len(told) < 600, told
    return told


@pytest.mark.parametrize("name", CASES)
def test_a_size_that_no_model_has_is_refused(name, tmp_path, capfd):
    model, message = CASES[name]
    assert message in refusal(model, tmp_path / "absurd.onnx")
    assert not capfd.readouterr().err, "ONNX Runtime writes beside the message"


def test_it_is_refused_before_memory_is_taken(tmp_path):
    (tmp_path / "absurd.onnx").write_bytes(CASES["sample of many gigabytes"][0].SerializeToString())
    tracemalloc.start()
    try:
        refusal(CASES["sample of many gigabytes"][0], tmp_path / "absurd.onnx")
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(1, 10**6, 10**6), (1, 0, 8), (1, -8, 8)])
def test_a_sample_that_no_factory_takes_is_refused(shape):
    with pytest.raises(ConfigError, match="TTA_MODEL__INPUT_SHAPE: the model takes samples of shape"):
        loader.load(None, "tests.worlds:tiny_batch_net", None, shape=shape)


def spots(made):
    """Every size, attribute and edge of a graph, to be overwritten."""
    for item in made.initializer:
        yield from ((item.dims, i) for i in range(len(item.dims)))
        yield item, "data_type"
    for value in (*made.input, *made.output, *made.value_info):
        yield from ((size, "dim_value") for size in value.type.tensor_type.shape.dim)
    for step in made.node:
        yield from ((step.input, i) for i in range(len(step.input)))
        yield step, "op_type"
        for attribute in step.attribute:
            yield from ((attribute.ints, i) for i in range(len(attribute.ints)))
            if attribute.type == onnx.AttributeProto.INT:
                yield attribute, "i"


def damaged(model, seed):
    """The model with one to three spots overwritten."""
    chance, made = random.Random(seed), onnx.ModelProto()
    made.CopyFrom(model)
    names = [name for step in made.graph.node for name in step.input]
    for where, key in chance.choices(list(spots(made.graph)), k=chance.choice((1, 1, 2, 3))):
        if key == "op_type":
            where.op_type = chance.choice(("Relu", "Conv", "Reshape", "Expand", "Tile", "Nonsense", "Split"))
        elif key == "data_type":
            where.data_type = chance.choice((1, 2, 7, 9, 10, 11, 16, 22, 99))
        elif isinstance(key, int) and isinstance(where[key], str):
            where[key] = chance.choice([*names, "", "nope"])
        elif isinstance(key, int):
            where[key] = chance.choice(HUGE)
        else:
            setattr(where, key, chance.choice(HUGE))
    return made


@pytest.mark.parametrize("kind", ["batch", "layer"])
def test_a_damaged_file_is_read_or_refused(kind, tmp_path):
    model = onnx_export.export(testing.tiny_net(kind), testing.batch(2))
    path, refused = tmp_path / "damaged.onnx", 0
    for seed in range(60):
        path.write_bytes(damaged(model, seed).SerializeToString())
        try:
            loader.load(None, None, None, onnx=path, device="cpu")
        except ConfigError as error:
            assert len(str(error).splitlines()) <= 3, error
            refused += 1
    assert refused > 20


def test_all_outputs_of_a_file_of_one_batch_size_are_opened(tmp_path):
    model = onnx_export.export(
        worlds.Answering(testing.tiny_net("batch"), worlds.ENDINGS["named"]), testing.batch(2)
    )
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "two.onnx")
    source = loader.load(None, None, None, onnx=tmp_path / "two.onnx", output="scores", device="cpu")
    patched = onnx.load_from_string(source.graph.patched({}))
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in patched.graph.output} == {"batch"}
