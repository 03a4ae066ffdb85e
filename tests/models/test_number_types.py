"""Files that compute in half or double precision, or take whole numbers: learnt in single, served as they are."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import nn

from tests.models.test_onnx_import import lively, parsed, saved
from tests.models.test_unfold import by_torchscript, source_file
from tta_adapters.tent import Tent
from tta_agent import testing
from tta_agent.models import loader, onnx_export
from tta_agent.models.inspection import inspect
from tta_agent.models.ort_sessions import open_session, raw_answer, run
from tta_agent.models.probe_inputs import random_inputs


def load(path, **options):
    return loader.load(None, None, None, onnx=path, device="cpu", **options)


def types(graph):
    return {item.name: item.data_type for item in graph.initializer}


@pytest.fixture
def half(tmp_path):
    path = by_torchscript(lively(testing.tiny_net("batch")), testing.batch(2), tmp_path / "net.onnx")
    return saved(convert_float_to_float16(onnx.load(path)), tmp_path)


def test_a_half_precision_file_learns_in_single_and_its_version_is_in_half(half, tmp_path):
    source = load(half, source_data=source_file(testing.batch(64, shift=0.0).numpy(), tmp_path))
    assert {p.dtype for p in source.module.parameters()} == {torch.float32}
    adapter, x = Tent(source.module, lr=1e-3), testing.batch(32)
    for _ in range(5):
        adapter.step(x, adapter.forward(x), testing.everyone(x))
    served = adapter.servable()
    version = onnx_export.GraphTemplate(source.module, source.shape, source.graph).compose(served)
    assert types(onnx.load_from_string(version).graph) == types(onnx.load(half).graph)
    assert TensorProto.FLOAT16 in types(onnx.load(half).graph).values()
    got, expected = run(open_session(version), x.numpy()), onnx_export.answers(served, x.numpy())
    assert np.abs(got - expected).max() <= 5e-3 * max(1, np.abs(expected).max())
    assert np.abs(got - run(open_session(half), x.numpy())).max() > 1e-2


def test_a_version_of_half_precision_files_is_compared_where_rounding_decides_no_class(half):
    source = load(half)
    fixed = onnx_export.GraphTemplate(source.module, source.shape, source.graph).fixed
    every = onnx_export.answers(source.module, random_inputs(source.module, 64, source.shape))
    margin = np.sort(onnx_export.answers(source.module, fixed), axis=1)
    assert len(fixed) == 16
    assert (margin[:, -1] - margin[:, -2]).min() > np.median(np.diff(np.sort(every, axis=1)[:, -2:])) * 0.9


def test_nodes_in_any_order_are_read(half):
    proto = onnx.load(half)
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes[::-1])
    x = testing.batch(5).numpy()
    answer = onnx_export.answers(load(half).module, x)
    assert np.array_equal(onnx_export.answers(load(saved(proto, half.parent)).module, x), answer)


def retyped(path, number, folder):
    """The same file with every float of this type."""
    proto = onnx.load(path)
    for item in proto.graph.initializer:
        if item.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(item).astype(helper.tensor_dtype_to_np_dtype(number))
            item.CopyFrom(numpy_helper.from_array(values, item.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = number
    return saved(proto, folder)


MLP = "m = ReduceMean<axes=[2,3], keepdims=0>(x) h = Gemm(m, v, s) n = Relu(h) y = Gemm(n, w, t)"
WEIGHTS = """float[2,2] v = {1.0, -2.0, 3.0, 4.0}, float[2] s = {0.3, 0.1}, float[2,2] w = {1.0, 2.0, 3.0, -4.0},
float[2] t = {0.1, 0.2}"""


def test_a_double_precision_file_is_learnt_in_single_and_served_in_double(tmp_path):
    path = retyped(parsed(MLP, tmp_path, weights=WEIGHTS), TensorProto.DOUBLE, tmp_path)
    source, x = (
        load(path, sites="*"),
        np.random.default_rng(0).standard_normal((6, 2, 4, 4), dtype=np.float32),
    )
    assert next(source.module.parameters()).dtype == torch.float32
    adapter = Tent(source.module, lr=0.05)
    adapter.step(torch.from_numpy(x), adapter.forward(torch.from_numpy(x)), testing.everyone(x))
    served = adapter.servable()
    version = source.graph.patched(onnx_export.floats(served))
    assert set(types(onnx.load_from_string(version).graph).values()) == {TensorProto.DOUBLE}
    assert np.allclose(run(open_session(version), x), onnx_export.answers(served, x), atol=1e-5)
    assert not np.allclose(run(open_session(version), x), run(open_session(path), x), atol=1e-3)


def test_weights_that_are_kept_in_bfloat16_stay_so(tmp_path):
    body = MLP.replace("m = ", "k = Cast<to=1>(v) l = Cast<to=1>(s) m = ").replace("(m, v, s)", "(m, k, l)")
    proto = onnx.load(parsed(body, tmp_path, weights=WEIGHTS))
    for item in proto.graph.initializer:
        if item.name in "vs":
            values = numpy_helper.to_array(item).astype(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
            item.CopyFrom(numpy_helper.from_array(values, item.name))
    path = saved(proto, tmp_path)
    source, x = (
        load(path, sites="none"),
        np.random.default_rng(0).standard_normal((4, 2, 4, 4), dtype=np.float32),
    )
    assert np.allclose(onnx_export.answers(source.module, x), run(open_session(path), x), atol=1e-5)
    (name,) = (name for name, slot in source.graph.slots.items() if slot.initializer == "v")
    assert isinstance(source.module.get_submodule(name.rpartition(".")[0]), nn.Linear)
    changed = source.module.get_submodule(name.rpartition(".")[0]).weight.detach() * 1.5
    version = source.graph.patched({name: changed})
    assert types(onnx.load_from_string(version).graph) == types(onnx.load(path).graph)
    assert not np.allclose(run(open_session(version), x), run(open_session(path), x), atol=1e-3)


IMAGE = """f = Cast<to=1>(x) c = Div(f, top) a = Conv<pads=[1,1,1,1]>(c, k, b) r = Relu(a)
m = GlobalAveragePool(r) g = Flatten(m) y = Gemm(g, w, t)"""


@pytest.fixture
def of_pixels(tmp_path):
    draw = np.random.default_rng(0)
    held = {"k": draw.normal(size=(2, 2, 3, 3)), "b": draw.normal(size=2), "w": draw.normal(size=(2, 2))}
    weights = ", ".join(
        f"float[{','.join(map(str, v.shape))}] {n} = {{{', '.join(f'{x:.4f}' for x in v.ravel())}}}"
        for n, v in held.items()
    )
    weights += ", float top = {255.0}, float[2] t = {0.1, 0.2}"
    return parsed(IMAGE, tmp_path, weights=weights, takes="uint8[batch, 2, 8, 8] x")


def test_a_model_of_bytes_casts_them_itself_and_learns_from_them(of_pixels, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (40, 2, 8, 8), dtype=np.uint8)
    source = load(of_pixels, source_data=source_file(pixels, tmp_path))
    assert source.std == (1 / 255, 1 / 255)  # an input is the pixel
    x = pixels.astype(np.float32)
    expected = open_session(of_pixels).run(None, {"x": pixels})[0]
    assert np.allclose(onnx_export.answers(source.module, x), expected, atol=1e-4)
    assert np.allclose(raw_answer(open_session(of_pixels), x - 0.3), expected, atol=1e-4)
    assert np.allclose(onnx_export.answers(source.module, x - 0.3), expected, atol=1e-4)
    found = inspect(of_pixels, ("norm", "tent"), source_data=tmp_path / "source.npz")
    assert found.adapters == {"norm": None, "tent": None}
    assert max(found.parity.values()) < 1e-4


def test_inputs_that_try_a_model_of_bytes_are_bytes(of_pixels):
    x = random_inputs(load(of_pixels).module, 50, (2, 8, 8))
    assert x.dtype == np.float32 and (x == x.round()).all()
    assert x.min() == 0 and x.max() == 255


IDS = """e = Gather(table, x) l = LayerNormalization(e, scale, shift) m = ReduceMean<axes=[1], keepdims=0>(l)
y = Gemm(m, w)"""


def test_a_model_of_ids_is_tried_with_ids_of_its_table(tmp_path):
    table = ", ".join(f"{v:.3f}" for v in np.random.default_rng(0).normal(size=14))
    weights = f"""float[7,2] table = {{{table}}}, float[2] scale = {{1.5, 0.5}}, float[2] shift = {{0.1, 0.2}},
    float[2,2] w = {{1.0, 2.0, 3.0, 4.0}}"""
    path = parsed(IDS, tmp_path, weights=weights, takes="int64[batch, 5] x", opset=17)
    source = load(path)
    x = random_inputs(source.module, 40, source.shape)
    assert set(x.ravel()) == set(range(7))
    assert inspect(path, ("tent",)).adapters == {"tent": None}
    adapter = Tent(source.module, lr=0.05)
    ids = torch.from_numpy(x)
    adapter.step(ids, adapter.forward(ids), testing.everyone(ids))
    version = source.graph.patched(onnx_export.floats(adapter.servable()))
    assert np.allclose(run(open_session(version), x), onnx_export.answers(adapter.servable(), x), atol=1e-5)
