"""Operators and structures that real files have beside layers and activations, each compared with ONNX Runtime."""

import copy

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.models.test_onnx_import import HEAD, W, parsed, saved
from tta_agent.assembly.copy import make_adaptation
from tta_agent.core.errors import ConfigError
from tta_agent.models import loader, message_size, onnx_export, onnx_import
from tta_agent.models.inspection import inspect
from tta_agent.models.ort_sessions import open_session, run
from tta_agent.settings import env

SCALES = "float[4] s = {1.0, 1.0, 1.5, 2.0}"


def weights(**shapes):
    draw = np.random.default_rng(0)
    held = {
        name: ", ".join(f"{v:.4f}" for v in draw.normal(size=shape).ravel()) for name, shape in shapes.items()
    }
    return ", ".join(f"float[{','.join(map(str, shapes[name]))}] {name} = {{{held[name]}}}" for name in held)


KERNEL = weights(k=(2, 2, 2, 2), v=(2,))
ALIGNED = 'mode="cubic", coordinate_transformation_mode="align_corners"'
SEQUENCE = """t = Transpose<perm=[2,0,1,3]>(x) sizes = Constant<value_ints=[4, -1, 8]>()
u = Reshape(t, sizes)"""
CELLS = {"w": (1, 12, 8), "r": (1, 12, 3), "b": (1, 24), "head": (3, 2)}
BOTH = {"w": (2, 12, 8), "r": (2, 12, 3), "b": (2, 24), "head": (3, 2)}
GATES = {"w": (1, 9, 8), "r": (1, 9, 3), "b": (1, 18), "head": (3, 2)}
LAST = "axis = Constant<value_ints=[0]>() q = ReduceMean<axes=[0, 1], keepdims=0>(p) y = MatMul(q, head)"
CASES = {
    "Resize nearest": (f"n = Resize(x, , s) {HEAD}", f"{W}, {SCALES}", 13),
    "Resize linear": (f'n = Resize<mode="linear">(x, , s) {HEAD}', f"{W}, {SCALES}", 17),
    "Resize cubic": (
        f"n = Resize<{ALIGNED}>(x, , s) {HEAD}", f"{W}, {SCALES}", 13,
    ),
    "Resize to a size": (
        f"""h = Shape(x) two = Constant<value_ints=[2]>() zero = Constant<value_ints=[0]>() f = Slice(h, zero, two)
        to = Constant<value_ints=[7, 3]>() z = Concat<axis=0>(f, to) n = Resize<mode="linear">(x, , , z) {HEAD}""",
        W, 13,
    ),
    "Upsample": (f"n = Upsample(x, s) {HEAD.replace('Gemm', 'MatMul')}", f"{W}, {SCALES}", 9),
    "ConvTranspose": (
        f"n = ConvTranspose<strides=[2,2], pads=[1,0,0,1], output_padding=[1,0]>(x, k, v) {HEAD}",
        f"{W}, {KERNEL}", 13,
    ),
    "blocks and back": (
        f"""e = SpaceToDepth<blocksize=2>(x) g = DepthToSpace<blocksize=2, mode="CRD">(e)
        d = SpaceToDepth<blocksize=2>(g) p = DepthToSpace<blocksize=2>(d) n = Mul(p, places) {HEAD}""",
        f"{W}, {weights(places=(4, 4))}", 13,
    ),
    "LSTM": (f"{SEQUENCE} p, , = LSTM<hidden_size=3>(u, w, r, b) {LAST}", weights(**CELLS), 14),
    "LSTM in both directions": (
        f'{SEQUENCE} p, h, c = LSTM<hidden_size=3, direction="bidirectional">(u, w, r, b) {LAST}',
        weights(**BOTH), 14,
    ),
    "LSTM backwards": (
        f'{SEQUENCE} p, h, c = LSTM<hidden_size=3, direction="reverse">(u, w, r, b) {LAST}', weights(**CELLS), 14,
    ),
    "GRU": (f"{SEQUENCE} p, h = GRU<hidden_size=3, linear_before_reset=1>(u, w, r, b) {LAST}", weights(**GATES), 14),
    "reductions": (
        f"""a = ReduceL1<axes=[3]>(x) b = ReduceSumSquare<axes=[3]>(x) c = ReduceLogSumExp<axes=[3]>(x)
        d = ReduceLogSum<axes=[3]>(a) e = Sum(a, b, c, d) n = MeanVarianceNormalization(e) {HEAD}""", W, 13,
    ),
    "activations": (
        f"""a = Selu<alpha=1.5>(x) b = Celu<alpha=0.5>(a) c = Softsign(b) d = Shrink<lambd=0.1, bias=0.05>(c)
        e = Atan(d) f = Sinh(e) n = ThresholdedRelu<alpha=0.01>(f) {HEAD}""", W, 13,
    ),
}  # fmt: skip


def x_of(shape=(2, 4, 4), n=3):
    return np.random.default_rng(1).standard_normal((n, *shape), dtype=np.float32)


def moved(built):
    """A copy with other weights."""
    module = copy.deepcopy(built.module)
    for tensor in onnx_export.floats(module).values():
        tensor.mul_(1.1)
    return module


@pytest.mark.parametrize("name", CASES)
def test_each_operator_answers_as_in_onnx_runtime(name, tmp_path):
    body, held, opset = CASES[name]
    built = onnx_import.load(parsed(body, tmp_path, weights=held, opset=opset))  # which compares the answers
    module = moved(built)
    got = run(open_session(built.graph.patched(onnx_export.floats(module))), x_of())
    assert np.allclose(got, onnx_export.answers(module, x_of()), atol=1e-4)
    assert module.requires_grad_(True)(torch.from_numpy(x_of())).requires_grad


def test_classes_behind_the_logits_are_left_alone(tmp_path):
    proto = onnx.load(parsed(f"n = Relu(x) {HEAD}", tmp_path, weights=W))
    proto.graph.node.extend(
        [
            helper.make_node("ArgMax", ["y"], ["label"], axis=1, keepdims=0),
            helper.make_node("TopK", ["y", "one"], ["best", "place"], axis=1),
            helper.make_node("NonMaxSuppression", ["y", "y"], ["never"]),
        ]
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    proto.graph.output.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]))
    proto.graph.output.append(helper.make_tensor_value_info("place", TensorProto.INT64, ["batch", 1]))
    del proto.graph.node[-1]
    path = saved(proto, tmp_path)
    built = onnx_import.load(path)
    assert built.output == "y"
    version = open_session(built.graph.patched({}))
    assert [node.name for node in version.get_outputs()] == ["y", "label", "place"]
    assert not any("not supported" in o.found for o in inspect(path, ()).obstacles)


def test_weights_that_a_file_fills_with_one_number_can_learn(tmp_path):
    body = """k = ConstantOfShape<value={{0.02}}>(sizes) v = ConstantOfShape<value={{0.02}}>(two)
    c = Conv(x, k, v) n = Relu(c)"""
    body = body.replace("{{0.02}}", "float[1] {0.02}")
    held = f"{W}, int64[4] sizes = {{2, 2, 1, 1}}, int64[1] two = {{2}}"
    proto = onnx.load(parsed(f"{body} {HEAD}", tmp_path, weights=held, takes="float[1, 2, 4, 4] x"))
    built = onnx_import.load(saved(proto, tmp_path))
    assert {"k", "v"} <= {slot.initializer for slot in built.graph.slots.values()}
    module = moved(built)
    got = run(open_session(built.graph.patched(onnx_export.floats(module))), x_of())
    assert np.allclose(got, onnx_export.answers(module, x_of()), atol=1e-5)
    found = inspect(tmp_path / "model.onnx", ("frozen",))  # of one batch size
    assert found.parity and max(found.parity.values()) < 1e-4


BRANCHES = """c = Equal(r, four) n = If (c) <
  then_branch = yes () => (a) { g = Mul(x, only) a = Relu(g) },
  else_branch = no () => (b) { b = NonZeroed(x) } >"""


@pytest.mark.parametrize("condition", ["h = Shape(x) r = Size(h)", "r = Constant<value_int=4>()"])
def test_the_branch_that_is_always_taken_is_read(condition, tmp_path):
    body = f"four = Constant<value_int=4>() {condition} {BRANCHES.replace('NonZeroed', 'Neg')} {HEAD}"
    built = onnx_import.load(parsed(body, tmp_path, weights=f"{W}, float only = {{2.0}}"))
    x = x_of()
    w = np.array([[1, 2], [3, 4]])
    assert np.allclose(onnx_export.answers(built.module, x), 2 * np.maximum(x, 0).mean((2, 3)) @ w, atol=1e-5)
    module = moved(built)
    got = run(open_session(built.graph.patched(onnx_export.floats(module))), x)
    assert np.allclose(got, onnx_export.answers(module, x), atol=1e-5)


def test_a_branch_that_depends_on_the_data_is_refused(tmp_path):
    body = f"""four = Constant<value_float=4.0>() r = ReduceMax<keepdims=0>(x) {BRANCHES.replace("NonZeroed", "Neg")}
    {HEAD}"""
    with pytest.raises(
        ConfigError, match=r"If in a way that is not supported: input 'c' must not depend on the data"
    ):
        onnx_import.load(parsed(body, tmp_path, weights=f"{W}, float only = {{2.0}}"))


TURNED = f"f = Sub(x, k) n = Transpose<perm=[0,3,1,2]>(f) {HEAD}"
GREY = "sizes = Constant<value_ints=[-1, 1, 4, 4]>() r = Reshape(x, sizes) n = Concat<axis=1>(r, r)" + HEAD


@pytest.mark.parametrize(
    ("body", "takes", "last"),
    [
        (TURNED, "float[batch, 4, 4, 2] x", True),
        (GREY, "float[batch, 4, 4, 1] x", True),
        (f"n = Sub(x, k) {HEAD}", "float[batch, 2, 4, 4] x", False),
        (f"t = Transpose<perm=[0,2,3,1]>(x) f = Sub(t, k) n = Transpose<perm=[0,3,1,2]>(f) {HEAD}",
         "float[batch, 2, 4, 4] x", False),
    ],
)  # fmt: skip
def test_channels_that_come_last_are_recognised(body, takes, last, tmp_path):
    path = parsed(body, tmp_path, weights=f"{W}, float k = {{0.5}}", takes=takes)
    source = loader.load(None, None, None, onnx=path, device="cpu")
    assert source.module.channels_last is last
    assert len(source.mean) == len(source.std) == (1 if last else 2)


def test_channels_that_come_last_have_one_mean(tmp_path):
    path = parsed(TURNED, tmp_path, weights=f"{W}, float k = {{0.5}}", takes="float[batch, 4, 4, 2] x")
    with pytest.raises(ConfigError, match=r"TTA_MODEL__MEAN=.*expected 1 number"):
        loader.load(None, None, None, onnx=path, device="cpu", mean=(0.1, 0.2))


def test_what_works_on_channels_of_images_is_refused_where_they_come_last(tmp_path):
    body = "t = Transpose<perm=[0,3,1,2]>(x) n = BatchNormalization(t, g, b, m0, v0)" + HEAD
    held = f"{W}, {', '.join(f'float[2] {name} = {{0.5, 1.5}}' for name in ('g', 'b', 'm0', 'v0'))}"
    path = parsed(body, tmp_path, weights=held, takes="float[batch, 8, 8, 2] x")
    found = inspect(path, ("tent", "cotta", "deyo")).adapters
    assert found["tent"] is None
    assert found["cotta"] == (
        "adapter 'cotta' needs images [channels, height, width], and the model takes samples of shape [8, 8, 2] "
        "with the channels last"
    )
    assert "the channels last" in found["deyo"]
    settings = env.load(model={"onnx": path}, adapt={"method": "cotta"})
    with pytest.raises(ConfigError, match=r"with the channels last;\nadapters that fit it: .*tent"):
        make_adaptation(settings, loader.load(None, None, None, onnx=path, device="cpu"), None)


@pytest.fixture
def external(tmp_path):
    """A file whose weights are in another one beside it."""
    proto = onnx.load(parsed(f"n = Relu(x) {HEAD}", tmp_path, weights=W))
    for item in proto.graph.initializer:  # only raw data can be elsewhere
        item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item), item.name))
    path = tmp_path / "outside.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_weights_in_a_file_of_their_own_are_read_and_a_version_is_one_file(external):
    built = onnx_import.load(external)
    version = built.graph.patched(onnx_export.floats(moved(built)))
    (item,) = (i for i in onnx.load_from_string(version).graph.initializer if i.name == "w")
    assert not item.external_data and np.allclose(numpy_helper.to_array(item), [[1.1, 2.2], [3.3, 4.4]])
    assert np.allclose(
        run(open_session(built.graph.patched({})), x_of()), run(open_session(external), x_of())
    )
    assert not inspect(external, ()).obstacles[1:]


def test_weights_that_are_too_many_for_one_file_stay_where_they_are_unless_they_must_not(
    external, monkeypatch
):
    monkeypatch.setattr(message_size, "LARGEST", 8)
    with pytest.raises(
        ConfigError,
        match=r"the tensors that are no large floats have 0.00 GiB, and one ONNX file holds 0.00 GiB at most;\n"
        "name an export in half",
    ):
        onnx_import.load(external)
    (obstacle,) = inspect(external).obstacles
    assert obstacle.found.startswith("the tensors that are no large floats have")


def test_a_file_of_weights_that_is_missing_is_named(external):
    (external.parent / "weights.bin").unlink()
    (obstacle,) = inspect(external).obstacles
    assert "weights.bin, which is not there" in obstacle.found
