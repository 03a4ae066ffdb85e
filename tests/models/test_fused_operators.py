"""Files that ONNX Runtime has optimised and saved: fused operators are read as what they were made of."""

import copy

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from torch import nn

from tests.models.test_onnx_import import exported, images, saved
from tests.models.test_unfold import by_torchscript, source_file
from tta_agent.core.errors import ConfigError
from tta_agent.models import loader, onnx_export, onnx_import
from tta_agent.models.batchnorm import census
from tta_agent.models.inspection import inspect
from tta_agent.models.ort_sessions import open_session, run

LEVELS = ort.GraphOptimizationLevel


def optimised(path, level, folder):
    """The file as ONNX Runtime saves it after its optimisations."""
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return folder / "optimised.onnx"


def fused(path):
    return {node.op_type for node in onnx.load(path).graph.node if node.domain.startswith("com.microsoft")}


@pytest.mark.parametrize("level", [LEVELS.ORT_ENABLE_BASIC, LEVELS.ORT_ENABLE_EXTENDED])
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("resnet", {"FusedConv"}),
        ("mobilenet", {"FusedConv"}),
        ("efficientnet", {"FusedConv", "QuickGelu"}),
        ("vit", {"BiasGelu"}),
    ],
)
def test_optimised_files_have_the_layers_of_the_exported_one(name, found, level, tmp_path):
    path = optimised(by_torchscript(exported(name)[0], images(2), tmp_path / "net.onnx"), level, tmp_path)
    assert fused(path) == (found if level == LEVELS.ORT_ENABLE_EXTENDED else set())
    source = source_file(images(32).numpy(), tmp_path)
    model = loader.load(None, None, None, onnx=path, device="cpu", source_data=source)
    assert census(model.module) == census(exported(name)[0])
    changed = copy.deepcopy(model.module)
    for tensor in onnx_export.floats(changed).values():
        tensor.mul_(1.02)
    x = images(3).numpy()
    got = run(open_session(model.graph.patched(onnx_export.floats(changed))), x)
    expected = onnx_export.answers(changed, x)
    assert np.abs(got - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


def test_a_file_for_one_processor_is_refused_with_the_file_to_name(tmp_path):
    path = by_torchscript(exported("resnet")[0], images(2), tmp_path / "net.onnx")
    blocks = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
    )
    path = optimised(by_torchscript(blocks.eval(), images(2), path), LEVELS.ORT_ENABLE_ALL, tmp_path)
    if not any(node.domain == "com.microsoft.nchwc" for node in onnx.load(path).graph.node):
        pytest.skip("ONNX Runtime makes no blocks on this processor")
    with pytest.raises(
        ConfigError, match=r"weights in blocks\);\nname the file from before that optimisation"
    ):
        onnx_import.load(path)
    (obstacle,) = inspect(path).obstacles
    assert obstacle.found.startswith("the file is optimised for one kind of processor")
    assert "name the file from before that optimisation" in obstacle.remedy


def numbers(values):
    return ", ".join(f"{value:.4f}" for value in values.ravel())


def parsed(body, folder, weights=()):
    """A graph [N, 4, 6] -> [N, 3] of the body's value n and the mean over the first axis behind the batch."""
    draw = np.random.default_rng(0)
    head = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>'
    ports = "net (float[batch, 4, 6] x) => (float[batch, 3] y)"
    held = {**dict(weights), "head": (6, 3)}
    text = ", ".join(
        f"float[{','.join(map(str, shape))}] {name} = {{{numbers(draw.normal(size=shape))}}}"
        for name, shape in held.items()
    )
    tail = "m = ReduceMean<axes=[1], keepdims=0>(n) y = MatMul(m, head)"
    return saved(onnx.parser.parse_model(f"{head} {ports} <{text}> {{ {body} {tail} }}"), folder)


MS = "com.microsoft."
NORM = {"scale": (6,), "shift": (6,), "bias": (6,)}
SQUARE = {"w": (6, 6), "b": (6,)}
CASES = {
    "Gelu": (f"n = {MS}Gelu(x)", {}, 0),
    "BiasGelu": (f"n = {MS}BiasGelu(x, bias)", NORM, 0),
    "BiasGelu behind a product": (f"p = MatMul(x, w) n = {MS}BiasGelu(p, b)", SQUARE, 2),
    "FastGelu": (f"n = {MS}FastGelu(x)", {}, 0),
    "FastGelu with a bias": (f"n = {MS}FastGelu(x, bias)", NORM, 0),
    "QuickGelu": (f"n = {MS}QuickGelu<alpha=1.702>(x)", {}, 0),
    "SkipLayerNormalization": (f"r = Relu(x) n = {MS}SkipLayerNormalization(x, r, scale, shift)", NORM, 1),
    "SkipLayerNormalization with a bias and the sum": (
        f"r = Relu(x) o, , , s = {MS}SkipLayerNormalization(x, r, scale, shift, bias) n = Add(o, s)", NORM, 1,
    ),
    "FusedMatMul": (f"p = {MS}FusedMatMul<alpha=0.5, transB=1>(x, x) n = {MS}FusedMatMul(p, x)", {}, 0),
    "FusedMatMul turned": (f"p = {MS}FusedMatMul<alpha=0.5, transA=1>(x, x) n = {MS}FusedMatMul(x, p)", {}, 0),
    "FusedGemm": (
        f"""f = Flatten<axis=2>(x) sizes = Constant<value_ints=[-1, 6]>() r = Reshape(x, sizes)
        g = {MS}FusedGemm<activation="LeakyRelu", activation_alpha=0.2, transB=1>(r, w, b)
        back = Constant<value_ints=[-1, 4, 6]>() n = Reshape(g, back)""", SQUARE, 1,
    ),
    "FusedConv and a sum": (
        f"""n = {MS}FusedConv<activation="Relu", kernel_shape=[1]>(x, k, v, x)""", {"k": (4, 4, 1), "v": (4,)}, 0,
    ),
    "Attention": (f"n = {MS}Attention<num_heads=2>(x, w, b)", {"w": (6, 18), "b": (18,)}, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_fused_operator_answers_as_in_onnx_runtime(name, tmp_path):
    body, weights, layers = CASES[name]
    built = onnx_import.load(parsed(body, tmp_path, weights))  # which compares the answers
    kinds = (nn.Linear, nn.LayerNorm)
    assert sum(isinstance(m, kinds) for m in built.module.modules()) >= layers
    changed = copy.deepcopy(built.module)
    for tensor in onnx_export.floats(changed).values():
        tensor.mul_(1.1)
    x = np.random.default_rng(1).standard_normal((3, 4, 6), dtype=np.float32)
    got = run(open_session(built.graph.patched(onnx_export.floats(changed))), x)
    assert np.allclose(got, onnx_export.answers(changed, x), atol=1e-4)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (f'n = {MS}FusedConv<activation="Mish", kernel_shape=[1]>(x, k, v)', "activation Mish"),
        (f"n = {MS}FusedMatMul<transBatchA=1>(x, x)", "transBatchA"),
    ],
)
def test_a_use_of_a_fused_operator_that_is_not_supported_is_a_message(body, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        onnx_import.load(parsed(body, tmp_path, {"k": (4, 4, 1), "v": (4,)}))
