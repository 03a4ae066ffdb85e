"""A served ONNX file alone: rebuilt as a torch module, under its names, with its answers and true gradients."""

import copy
import functools
import logging
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from safetensors.torch import load_file
from timm import create_model
from timm.layers import GroupNorm
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.convnext import ConvNeXt
from timm.models.deit import VisionTransformerDistilled
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.regnet import RegNet, RegNetCfg
from timm.models.resnet import BasicBlock, ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tta_adapters.tent import Tent
from tta_agent import testing
from tta_agent.core.errors import ConfigError, GraphError
from tta_agent.models import loader, onnx_export, onnx_import
from tta_agent.models.batchnorm import census
from tta_agent.models.onnx_import.operators import OPERATORS, Operator
from tta_agent.models.onnx_import.reading import _node as read_node
from tta_agent.models.ort_sessions import open_session, run

SHARED = Path(__file__).parents[2] / "../shared/data"


class WideBlock(nn.Module):
    """Of a WideResNet: normalisation before each convolution."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x):
        h = self.bn1(x).relu()
        short = x if self.shortcut is None else self.shortcut(h)
        return self.conv2(self.bn2(self.conv1(h)).relu()) + short


def wide_resnet(depth, width):
    blocks, sizes = (depth - 4) // 6, [16, 16 * width, 32 * width, 64 * width]
    stages = [
        WideBlock(sizes[i] if j == 0 else sizes[i + 1], sizes[i + 1], 2 if i and j == 0 else 1)
        for i in range(3)
        for j in range(blocks)
    ]
    head = [
        nn.BatchNorm2d(sizes[3]),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(sizes[3], 10),
    ]
    return nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), *stages, *head)


def efficient(make, *stages, **options):
    return make(decode_arch_def([[stage] for stage in stages]), num_classes=10, stem_size=8, **options)


VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 10}
SWIN = {
    "img_size": 32,
    "patch_size": 4,
    "window_size": 2,
    "embed_dim": 12,
    "depths": (2, 1),
    "num_heads": (2, 4),
}
RESNET = {"block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16), "num_classes": 10}
REGNET = RegNetCfg(depth=6, w0=8, wa=8.0, wm=1.5, group_size=8, se_ratio=0.25)
SMALL = {
    "resnet": lambda: ResNet(**RESNET),
    "resnet with GroupNorm": lambda: ResNet(**RESNET, norm_layer=partial(GroupNorm, num_groups=4)),
    "wide resnet": lambda: wide_resnet(10, 2),
    "mobilenet": lambda: efficient(
        MobileNetV3, "ds_r1_k3_s2_e1_c8_se0.25_nre", "ir_r2_k5_s2_e3_c12_se0.25", act_layer=nn.Hardswish,
        se_layer=partial(SqueezeExcite, gate_layer="hard_sigmoid"),
    ),
    "regnet": lambda: RegNet(REGNET, num_classes=10),
    "efficientnet": lambda: efficient(
        EfficientNet, "ds_r1_k3_s1_e1_c8_se0.25", "ir_r2_k3_s2_e4_c12_se0.25", act_layer=nn.SiLU
    ),
    "convnext": lambda: ConvNeXt(num_classes=10, depths=(1, 1, 1, 1), dims=(8, 8, 16, 16)),
    "vit": lambda: VisionTransformer(**VIT),
    "deit": lambda: VisionTransformerDistilled(**VIT),
    "swin": lambda: SwinTransformer(**SWIN, num_classes=10),
}  # fmt: skip
FAMILIES = tuple(SMALL)
SMALL |= {f"tiny {kind}": partial(testing.tiny_net, kind) for kind in ("batch", "layer")}
FULL = {
    **{
        n: partial(create_model, n, num_classes=10)
        for n in ("resnet18", "resnet50", "resnet50_gn", "convnext_tiny")
    },
    **{n: partial(create_model, n, num_classes=10) for n in ("mobilenetv3_large_100", "efficientnet_b0")},
    "regnety_004": partial(create_model, "regnety_004", num_classes=10),
    "vit_tiny": partial(create_model, "vit_tiny_patch16_224", img_size=64, num_classes=10),
    "deit_tiny": partial(create_model, "deit_tiny_patch16_224", img_size=64, num_classes=10),
    "swin_tiny": partial(
        create_model, "swin_tiny_patch4_window7_224", img_size=64, window_size=4, num_classes=10
    ),
    "wide_resnet28_10": partial(wide_resnet, 28, 10),
}


def lively(model):
    """Every float differs from its neighbours, so that no exporter merges two tensors."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in onnx_export.floats(model).items():
        if "mask" not in name:
            tensor.add_(0.04 * torch.rand(tensor.shape, generator=generator) - 0.02)
    return model.eval()


def images(n, side=32, seed=0):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def saved(proto, folder):
    onnx.save(proto, folder / "model.onnx")
    return folder / "model.onnx"


def gradients(model, x):
    parameters = dict(model.requires_grad_(True).named_parameters())
    logits = model(x)
    found = torch.autograd.grad(-(logits.softmax(1) * logits.log_softmax(1)).sum(), list(parameters.values()))
    model.requires_grad_(False)
    return dict(zip(parameters, found, strict=True))


def check_rebuilt(model, path, side):
    """Names, answers at other batch sizes, gradients, layers."""
    built = onnx_import.load(path)
    module = built.module
    assert module.state_dict().keys() >= onnx_export.floats(model).keys()
    assert {n for n, _ in module.named_parameters()} == {n for n, _ in model.named_parameters()}
    assert census(module) == census(model)
    for kind in (nn.Conv2d, nn.Linear):
        assert sum(isinstance(m, kind) for m in module.modules()) == sum(
            isinstance(m, kind) for m in model.modules()
        )
    for n in (1, 7):
        assert torch.allclose(module(images(n, side)), model(images(n, side)), atol=1e-4)
    x = images(2, side)
    expected = gradients(model, x)
    for name, gradient in gradients(module, x).items():
        # float noise: gradients of a bias before a normalisation are zero in exact arithmetic
        assert torch.allclose(
            gradient, expected[name], rtol=1e-3, atol=1e-4 * float(1 + expected[name].abs().max())
        ), name
    return built


@functools.cache
def exported(name):
    """A small model of the family, and our own export of it: once for all tests."""
    torch.manual_seed(0)
    model = lively(SMALL[name]())
    x = testing.batch(2) if name.startswith("tiny") else images(2)
    return model, onnx_export.export(model, x)


@pytest.fixture(params=FAMILIES)
def family(request, tmp_path):
    model, proto = exported(request.param)
    return model, saved(proto, tmp_path)


def test_each_family_is_rebuilt_from_our_own_export(family):
    model, path = family
    built = check_rebuilt(model, path, 32)
    assert (built.shape, built.folded) == ((3, 32, 32), 0)


def test_the_module_is_copied_moved_and_restored(family):
    _, path = family
    module, x = onnx_import.load(path).module, images(3)
    twin = copy.deepcopy(module)
    assert torch.equal(twin(x), module(x))
    assert torch.allclose(twin.double()(x.double()).float(), module(x), atol=1e-4)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    other = onnx_import.load(path).module
    for tensor in onnx_export.floats(other).values():
        tensor.mul_(0.5)
    assert not torch.allclose(other(x), module(x), atol=1e-4)
    other.load_state_dict(state)
    assert torch.equal(other(x), module(x))
    assert all(t.is_meta for t in [*module.to("meta").parameters(), *module.buffers()])


def test_the_file_itself_is_patched_by_name(family):
    _, path = family
    built = onnx_import.load(path)
    changed = copy.deepcopy(built.module)
    for tensor in onnx_export.floats(changed).values():
        tensor.mul_(1.05)
    session = open_session(built.graph.patched(onnx_export.floats(changed)))
    assert [node.name for node in session.get_inputs()] == [
        node.name for node in open_session(path).get_inputs()
    ]
    x = images(3).numpy()
    assert np.allclose(run(session, x), onnx_export.answers(changed, x), atol=1e-4)
    assert not np.allclose(run(session, x), onnx_export.answers(built.module, x), atol=1e-4)


@pytest.mark.parametrize("name", ["resnet", "convnext", "vit"])
def test_it_can_be_exported_again_and_patched_by_name(name, tmp_path):
    model, proto = exported(name)
    built = onnx_import.load(saved(proto, tmp_path))
    master = onnx_export.GraphTemplate(built.module, built.shape)
    assert master.patchable
    assert {
        item.name for item in onnx.load_from_string(master.compose(built.module)).graph.initializer
    } >= set(onnx_export.floats(model))


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_the_models_of_the_families(name, tmp_path):
    torch.manual_seed(0)
    model = lively(FULL[name]())
    side = 32 if name.startswith("wide") else 64
    check_rebuilt(model, saved(onnx_export.export(model, images(2, side)), tmp_path), side)


def test_the_public_cifar_file_equals_its_weights():
    if not (SHARED / "cifar10_resnet20.onnx").is_file():
        pytest.skip("no ../shared/data here")
    built = onnx_import.load(SHARED / "cifar10_resnet20.onnx")
    weights = load_file(SHARED / "cifar10_resnet20.safetensors")
    mine = onnx_export.floats(built.module)
    assert mine.keys() == {name for name, tensor in weights.items() if tensor.is_floating_point()}
    assert all(torch.equal(mine[name], weights[name]) for name in mine)
    assert census(built.module) == {"BatchNorm": 19}
    x = images(9).numpy()
    served = run(open_session(SHARED / "cifar10_resnet20.onnx"), x)
    assert np.allclose(onnx_export.answers(built.module, x), served, atol=1e-5)


@pytest.mark.parametrize("kind", ["batch", "layer"])
def test_tent_adapts_it_and_its_snapshot_is_served(kind, tmp_path):
    path = saved(exported(f"tiny {kind}")[1], tmp_path)
    source = loader.load(None, None, None, onnx=path, device="cpu")
    assert (source.shape, source.classes) == ((1, 8, 8), 4)
    adapter = Tent(source.module, lr=0.05)
    testing.learn(adapter)
    served, x = adapter.servable(), testing.batch(7).numpy()
    assert not np.allclose(onnx_export.answers(served, x), onnx_export.answers(source.module, x), atol=1e-3)
    composed = [source.graph.patched(onnx_export.floats(served))]
    if kind == "batch":
        composed.append(onnx_export.GraphTemplate(source.module, source.shape).compose(served))
    for version in composed:
        assert np.allclose(run(open_session(version), x), onnx_export.answers(served, x), atol=1e-5)


@pytest.mark.parametrize("check", testing.ADAPTER_CHECKS)
def test_adapters_keep_their_contract_on_it(check, tmp_path):
    path = saved(exported("tiny batch")[1], tmp_path)
    check(lambda model: Tent(model), onnx_import.load(path).module)


def optimised(model, example, folder):
    """As exporters do it by default: constants and normalisation folded."""
    with onnx_export._quiet():
        program = torch.onnx.export(
            model, (example,), dynamo=True, optimize=True, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    return saved(program.model_proto, folder)


def test_folded_batch_norms_are_said_to_be_gone_with_the_adapters_that_remain(tmp_path, caplog):
    path = optimised(lively(testing.tiny_net("batch")), testing.batch(2), tmp_path)
    with caplog.at_level(logging.WARNING):
        source = loader.load(None, None, None, onnx=path, device="cpu")
    assert census(source.module) == {"scale and shift": 2}
    assert "2 BatchNorms were folded into convolutions when model.onnx was exported" in caplog.text
    remain = caplog.text.partition("these adapters remain: ")[2].partition(". ")[0].split(", ")
    assert "frozen" in remain
    assert not {"norm", "adamixbn"} & set(remain)
    assert remain == onnx_import.can_adapt(source.module, source.shape)


def test_an_optimised_export_of_group_and_layer_norm_keeps_them(tmp_path, caplog):
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.SiLU(),
        nn.Conv2d(8, 8, 3, 2, 1), nn.InstanceNorm2d(8, affine=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 10),
    )  # fmt: skip
    path = optimised(lively(net), images(2), tmp_path)
    built = onnx_import.load(path)
    assert census(built.module) == {"GroupNorm": 2, "LayerNorm": 1}  # InstanceNorm: a group for each channel
    assert built.folded == 0
    x = images(3)
    assert torch.allclose(built.module(x), net(x), atol=1e-5)


def parsed(body, folder, *, weights="", takes="float[batch, 2, 4, 4] x", opset=13):
    head = f'<ir_version: 8, opset_import: ["": {opset}]> net ({takes}) => (float[batch, 2] y)'
    return saved(onnx.parser.parse_model(f"{head} <{weights}> {{ {body} }}"), folder)


HEAD = "m = ReduceMean<axes=[2,3], keepdims=0>(n) y = Gemm(m, w)"
W = "float[2,2] w = {1.0, 2.0, 3.0, 4.0}"


def test_a_layer_norm_in_parts_is_one_layer(tmp_path):
    for body in (
        """t = Transpose<perm=[0,2,3,1]>(x) u = ReduceMean<axes=[-1]>(t) d = Sub(t, u) q = Pow(d, two)
        v = ReduceMean<axes=[-1]>(q) e = Add(v, eps) r = Sqrt(e) z = Div(d, r) a = Mul(z, scale) s = Add(a, shift)
        n = Transpose<perm=[0,3,1,2]>(s)""",
        """u = ReduceMean<axes=[1]>(x) d = Sub(x, u) q = Mul(d, d) v = ReduceMean<axes=[1]>(q) e = Add(eps, v)
        r = Sqrt(e) z = Div(d, r) wide = Constant<value_ints=[1,2]>() k = Unsqueeze(scale, wide)
        l = Unsqueeze(shift, wide) a = Mul(k, z) n = Add(a, l)""",
    ):
        numbers = "float two = {2.0}, float eps = {0.01}"
        affine = "float[2] scale = {1.5, 0.5}, float[2] shift = {0.1, 0.2}"
        built = onnx_import.load(parsed(body + HEAD, tmp_path, weights=f"{W}, {numbers}, {affine}"))
        (norm,) = (m for m in built.module.modules() if isinstance(m, nn.LayerNorm))
        assert norm.weight.tolist() == [1.5, 0.5]
        assert norm.eps == pytest.approx(0.01)
        assert {slot.initializer for slot in built.graph.slots.values()} == {"scale", "shift", "w"}


def test_layers_that_share_a_tensor_get_one_each(tmp_path):
    body = """t = Transpose<perm=[0,2,3,1]>(x) a = LayerNormalization(t, one, zero) b = Relu(a)
    c = LayerNormalization(b, one, zero) n = Transpose<perm=[0,3,1,2]>(c)"""
    weights = f"{W}, float[2] one = {{1.0, 1.0}}, float[2] zero = {{0.0, 0.0}}"
    built = onnx_import.load(parsed(body + HEAD, tmp_path, weights=weights, opset=17))
    norms = {name: m for name, m in built.module.named_modules() if isinstance(m, nn.LayerNorm)}
    assert len(norms) == 2
    changed = copy.deepcopy(built.module)
    changed.get_submodule(list(norms)[1]).weight.data += torch.tensor([0.5, -0.5])
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 4), dtype=np.float32)
    got = run(open_session(built.graph.patched(onnx_export.floats(changed))), x)
    assert np.allclose(got, onnx_export.answers(changed, x), atol=1e-5)
    assert not np.allclose(got, onnx_export.answers(built.module, x), atol=1e-3)


def test_layers_that_share_a_view_of_a_tensor_get_one_each(tmp_path):
    body = """m = ReduceMean<axes=[2,3], keepdims=0>(x) t = Transpose<perm=[1,0]>(w)
    a = MatMul(m, t) b = Relu(a) y = MatMul(b, t)"""
    built = onnx_import.load(parsed(body, tmp_path, weights=W))
    assert sum(isinstance(m, nn.Linear) for m in built.module.modules()) == 2
    assert len({slot.initializer for slot in built.graph.slots.values()}) == 2


def test_a_tensor_that_an_exporter_named_by_an_operation_cannot_meet_the_next_exporters_names(tmp_path):
    body = "n = Mul(x, view)" + HEAD
    built = onnx_import.load(parsed(body, tmp_path, weights=f"{W}, float[2,1,1] view = {{1.0, 2.0}}"))
    assert built.graph.slots["onnx_weights.view"].initializer == "view"
    assert onnx_export.GraphTemplate(built.module, built.shape).patchable


def test_a_fixed_batch_is_opened_where_the_graph_follows(tmp_path):
    body = "n = Relu(x) m = ReduceMean<axes=[2,3]>(n) f = Reshape(m, sizes) y = Gemm(f, w)"
    weights = f"{W}, int64[2] sizes = {{1, 2}}"
    built = onnx_import.load(parsed(body, tmp_path, weights=weights, takes="float[1, 2, 4, 4] x"))
    x = torch.randn(6, 2, 4, 4)
    assert torch.allclose(built.module(x), torch.cat([built.module(one[None]) for one in x]))
    assert run(open_session(built.graph.patched({})), x.numpy()).shape == (6, 2)


def test_a_batch_that_is_baked_in_is_refused(tmp_path):
    body = "f = Reshape(x, sizes) c = Concat<axis=1>(token, f) y = ReduceMean<axes=[1], keepdims=0>(c)"
    weights = "float[1,1,2] token = {1.0, 2.0}, int64[3] sizes = {1, 16, 2}"
    path = parsed(body, tmp_path, weights=weights, takes="float[1, 2, 4, 4] x")
    with pytest.raises(ConfigError, match=r"exported for batches of 1 .*\n?.*dynamic batch axis"):
        onnx_import.load(path)


@pytest.mark.parametrize(
    ("body", "options", "message"),
    [
        ("[up] n = Bernoulli(x)" + HEAD, {"weights": W}, "Bernoulli (node 'up')"),
        ("n = Relu(x)" + HEAD, {"weights": W, "takes": "float[batch, 2, 4, 4] x, float[1] z"}, "one float input"),
        ("n = Relu(x)" + HEAD, {"weights": W, "takes": "bool[batch, 2, 4, 4] x"}, "takes x bool; expected"),
        ("n = Relu(x)" + HEAD, {"weights": W, "takes": "float[batch, 2, h, 4] x"}, "samples of shape [2, '?', 4]"),
        ("k = NonZero(x) n = Relu(x)" + HEAD, {"weights": W}, "TTA_MODEL__FACTORY"),
        ("n = Relu(x) y = Flatten(n)", {"weights": ""}, "it has no weights"),
    ],
)  # fmt: skip
def test_what_cannot_be_rebuilt_is_refused_with_its_name_and_what_to_do(body, options, message, tmp_path):
    with pytest.raises(ConfigError) as refused:
        onnx_import.load(parsed(body, tmp_path, **options))
    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 3


def test_a_size_that_the_file_leaves_open_is_taken_from_the_settings(tmp_path):
    path = parsed("n = Relu(x)" + HEAD, tmp_path, weights=W, takes="float[batch, 2, h, w0] x")
    assert onnx_import.load(path, (2, 6, 5)).shape == (2, 6, 5)
    with pytest.raises(ConfigError, match=r"TTA_MODEL__INPUT_SHAPE=\[3, 6, 5\]"):
        onnx_import.load(path, (3, 6, 5))


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        onnx_import.load(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(ConfigError, match="cannot be read as an ONNX file"):
        onnx_import.load(tmp_path / "bad.onnx")


def test_a_module_that_answered_otherwise_would_be_refused(tmp_path, monkeypatch):
    path = parsed("n = Relu(x)" + HEAD, tmp_path, weights=W)
    onnx_import.load(path)
    monkeypatch.setitem(OPERATORS, "Relu", Operator(torch.nn.functional.silu))
    with pytest.raises(ConfigError, match="answers otherwise: logits differ by"):
        onnx_import.load(path)


def test_patching_refuses_what_the_graph_does_not_have(tmp_path):
    built = onnx_import.load(parsed("n = Relu(x)" + HEAD, tmp_path, weights=W))
    with pytest.raises(GraphError, match="'other' is not in the served graph"):
        built.graph.patched({"other": torch.ones(1)})
    with pytest.raises(GraphError, match="has shape"):
        built.graph.patched(dict.fromkeys(built.graph.slots, torch.ones(7, 1)))


# training mode; nothing to reduce over; two masks at once: refused, and caught by parity if ever served
REFUSED = ("training", "empty_set", "mask_causal", "mask_3d_causal", "mask_4d_causal", "boolmask")


def standard_cases():
    """The ONNX standard's own examples of our operators, on the types that served models compute with."""
    from onnx.backend.test.case.node import collect_testcases

    for case in collect_testcases(None):
        node = case.model.graph.node[0]
        usual = all(
            isinstance(a, np.ndarray) and a.dtype in (np.float32, np.int64, bool)
            for a in case.data_sets[0][0]
        )
        if len(case.model.graph.node) == 1 and node.op_type in OPERATORS and usual:
            yield case


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning:onnx.backend", "ignore::UserWarning:onnx.backend")
def test_operators_compute_what_the_standard_says():
    checked = 0
    for case in standard_cases():
        node = read_node(case.model.graph.node[0], case.model.opset_import[0].version)
        operator = OPERATORS[node.op]
        given = dict(zip((v.name for v in case.model.graph.input), case.data_sets[0][0], strict=True))
        inputs = [torch.from_numpy(given[name]) if name else None for name in node.inputs]
        inputs = [t.tolist() if t is not None and i in operator.host else t for i, t in enumerate(inputs)]
        like = {"like": torch.empty(0)} if operator.makes else {}
        try:
            answer = operator.call(*inputs, **node.attributes, **like)
        except (NotImplementedError, TypeError):  # an input or attribute that is refused
            continue
        except (RuntimeError, IndexError):
            assert any(word in case.name for word in REFUSED), case.name
            continue
        answers = answer if isinstance(answer, tuple) else (answer,)
        answers = [a for a, name in zip(answers, node.outputs, strict=False) if name]
        if "training" not in case.name:
            for got, expected in zip(answers, case.data_sets[0][1], strict=False):
                assert got.shape == expected.shape, case.name
                assert np.allclose(got.numpy(), expected, rtol=1e-3, atol=1e-5, equal_nan=True), case.name
            checked += 1
    assert checked > 380
