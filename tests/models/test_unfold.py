"""Normalisation that an exporter folded away: found, unfolded from source inputs, and folded back."""

import copy
import functools
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file
from timm import create_model
from torch import nn

from benchmarks.zoo import BATCH, METHODS, accuracies
from tests.models.test_onnx_import import lively, optimised, parsed, saved
from tta_adapters.adamixbn import AdaMixBN
from tta_adapters.norm import Norm
from tta_adapters.tent import Tent
from tta_agent import corruptions, testing
from tta_agent.assembly import copy as assembly
from tta_agent.core.errors import ConfigError
from tta_agent.models import loader, onnx_export, onnx_import
from tta_agent.models.batchnorm import census
from tta_agent.models.onnx_import.sites import chosen
from tta_agent.models.onnx_import.unfold import statistics
from tta_agent.models.ort_sessions import open_session, run
from tta_agent.samples import dataset
from tta_agent.samples.nets import fashion_net

SHARED = Path(__file__).parents[2] / "../shared/data"
CIFAR_PIXELS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def by_torchscript(model, example, path, **options):
    """As the older exporter does it by default: BatchNorms folded."""
    with onnx_export._quiet():
        torch.onnx.export(
            model, (example,), path, dynamo=False, input_names=["input"], output_names=["logits"],
            dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}}, opset_version=17, **options,
        )  # fmt: skip
    return path


def load(path, data=None, sites="auto", **pixels):
    return loader.load(None, None, None, onnx=path, device="cpu", source_data=data, sites=sites, **pixels)


def sites_of(module):
    return [name for name, m in module.named_modules() if name.endswith("_norm") and hasattr(m, "weight")]


def source_file(inputs, folder, name="source.npz"):
    np.savez(folder / name, inputs=inputs)
    return folder / name


@functools.cache
def fashion():
    """Images shifted in four ways, labels, and unshifted other images."""
    some = dataset.load()
    x = torch.from_numpy(some.inputs[:800]).float() / 255
    families = ("gaussian_noise", "defocus_blur", "fog", "contrast")  # noise, blur, weather, digital
    streams = [corruptions.corrupt(x, name, 4, 0, "imagenet").numpy() for name in families]
    return streams, some.labels[:800], some.inputs[-1000:].astype(np.float32) / 255


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """The packaged net with its BatchNorms, and as both exporters fold it by default."""
    folder = tmp_path_factory.mktemp("nets")
    net = fashion_net()
    net.load_state_dict(load_file(dataset.ASSETS / dataset.WEIGHTS))
    x = torch.rand(2, 1, 28, 28)
    files = {"torchscript": by_torchscript(net.eval(), x, folder / "older.onnx")}
    files["dynamo"] = optimised(net, x, folder)
    onnx.save(onnx_export.export(net, x), folder / "kept.onnx")
    return {**files, "kept": folder / "kept.onnx"}


@pytest.mark.parametrize(("exporter", "method"), [("torchscript", "norm"), ("dynamo", "tent")])
def test_a_folded_net_adapts_as_the_one_with_its_batch_norms(exporter, method, nets, tmp_path):
    streams, labels, source = fashion()
    assert not any(node.op_type == "BatchNormalization" for node in onnx.load(nets[exporter]).graph.node)
    figures = {}
    for name, inputs in (("kept", None), ("300", source[::3][:300]), ("1000", source)):
        data = None if inputs is None else source_file(inputs, tmp_path)
        model = load(nets["kept" if inputs is None else exporter], data)
        assert census(model.module) == {"BatchNorm": 9}
        figures[name] = np.mean([accuracies(model, METHODS[method], x, labels) for x in streams], axis=0)
    assert min(figures["kept"]) > 50
    assert all(figures["300"] > figures["kept"] - 1)
    assert all(figures["1000"] > figures["kept"] - 0.5)


def test_a_version_is_the_file_with_other_tensors_and_version_0_is_the_file(nets, tmp_path):
    streams, _, source = fashion()
    model = load(nets["torchscript"], source_file(source[:300], tmp_path))
    template = onnx_export.GraphTemplate(model.module, model.shape, model.graph)
    assert template.patchable
    file, plain = onnx.load(nets["torchscript"]), load(nets["torchscript"], sites="none")
    assert template.compose(model.module) == plain.graph.patched(onnx_export.floats(plain.module))
    adapter = AdaMixBN(model.module)
    x = torch.from_numpy(streams[0][:BATCH])
    adapter.step(x, adapter.forward(x), testing.everyone(x))
    served = adapter.servable()
    version = onnx.load_from_string(template.compose(served))
    assert list(version.graph.node) == list(file.graph.node)
    assert [(t.name, t.dims) for t in version.graph.initializer] == [
        (t.name, t.dims) for t in file.graph.initializer
    ]
    moved = {t.name for t, u in zip(version.graph.initializer, file.graph.initializer, strict=True) if t != u}
    assert len(moved) == 18  # weight and bias of 9 convolutions
    got = run(open_session(version.SerializeToString()), streams[0][:50])
    expected = onnx_export.answers(served, streams[0][:50])
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_cifar_resnet20_folded_is_close_to_the_one_with_its_batch_norms(method, tmp_path):
    if not (SHARED / "cifar10_resnet20.onnx").is_file():
        pytest.skip("no ../shared/data here")
    kept = load(SHARED / "cifar10_resnet20.onnx", **CIFAR_PIXELS)
    path = by_torchscript(kept.module, torch.zeros(2, 3, 32, 32), tmp_path / "folded.onnx")
    pool = np.load(SHARED / "cifar10_source.npz")["inputs"]
    inputs = pool[np.random.default_rng(0).permutation(len(pool))]
    some = np.load(SHARED / "cifar10_test.npz")
    pixels, labels = torch.from_numpy(some["inputs"][:1000]).float() / 255, some["labels"][:1000]
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in CIFAR_PIXELS.values())
    models = {
        "kept": kept,
        **{n: load(path, source_file(inputs[:n], tmp_path), **CIFAR_PIXELS) for n in (300, 1000)},
    }
    figures = {name: [] for name in models}
    for name in ("gaussian_noise", "impulse_noise", "glass_blur", "fog", "pixelate", "jpeg_compression"):
        stream = (corruptions.corrupt(pixels, name).numpy() - mean) / std
        for key, model in models.items():
            figures[key].append(accuracies(model, METHODS[method], stream, labels))
    means = {key: np.mean(rows, axis=0) for key, rows in figures.items()}
    assert min(means["kept"]) > 70
    assert all(
        means[n][i] > means["kept"][i] - 1.5 for n in (300, 1000) for i in (0, 1)
    )  # measured: 0.6 to 1.2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "norms"), [("resnet18", 20), ("efficientnet_b0", 49), ("mobilenetv3_large_100", 46)]
)
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_public_families_are_unfolded_and_folded_back(name, norms, exporter, tmp_path):
    torch.manual_seed(0)
    net = lively(create_model(name, num_classes=10))
    x = torch.randn(32, 3, 64, 64)
    path = by_torchscript(net, x[:2], tmp_path / "a.onnx") if exporter == "torchscript" else None
    model = load(path or optimised(net, x[:2], tmp_path), source_file(x.numpy(), tmp_path))
    assert census(model.module) == {"BatchNorm": norms} == census(net)
    adapter = Tent(model.module, lr=0.01)
    adapter.step(x + 1, adapter.forward(x + 1), testing.everyone(x))
    served = adapter.servable()
    expected = onnx_export.answers(served, x.numpy())
    got = run(open_session(model.graph.patched(onnx_export.floats(served))), x.numpy())
    before = onnx_export.answers(model.module, x.numpy())
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.abs(got - before).max() > 1e-2 * np.abs(before).max()


def test_without_source_inputs_scale_and_shift_are_left_and_it_says_what_they_would_buy(nets, caplog):
    with caplog.at_level(logging.WARNING):
        model = load(nets["dynamo"])
    assert census(model.module) == {"scale and shift": 9}
    assert "TTA_MODEL__SOURCE_DATA" in caplog.text
    assert "norm" not in onnx_import.can_adapt(model.module, model.shape)
    x = torch.from_numpy(fashion()[0][0][:BATCH])
    adapter = Tent(model.module)
    adapter.step(x, adapter.forward(x), testing.everyone(x))
    got = run(open_session(model.graph.patched(onnx_export.floats(adapter.servable()))), x.numpy())
    assert np.allclose(got, onnx_export.answers(adapter.servable(), x.numpy()), atol=1e-4)
    assert not np.allclose(got, onnx_export.answers(model.module, x.numpy()), atol=1e-3)


def test_it_says_how_many_sites_were_unfolded_from_how_many_inputs(nets, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        load(nets["dynamo"], source_file(fashion()[2][:50], tmp_path))
    assert "9 BatchNorms that were folded into its layers are normalisation layers again" in caplog.text
    assert "50 source inputs" in caplog.text


def test_source_inputs_are_no_part_of_the_models_name(nets, tmp_path):
    data = [
        source_file(fashion()[2][part], tmp_path, f"{i}.npz")
        for i, part in enumerate((slice(50), slice(60, 99)))
    ]
    names = {assembly.fingerprint(load(nets["dynamo"], path).module) for path in (None, *data)}
    assert names == {assembly.fingerprint(load(nets["dynamo"], sites="none").module)}
    learning = [assembly.fingerprint(load(nets["dynamo"], path).module, sites=True) for path in data]
    assert len({*learning, *names}) == 3  # a checkpoint belongs to its statistics


def test_a_channel_that_is_constant_over_the_source_stays_finite(tmp_path):
    net = lively(testing.tiny_net("batch"))
    with torch.no_grad():
        net[1].weight[0] = net[4].weight[0] = 0.0
    path = by_torchscript(net, testing.batch(2), tmp_path / "net.onnx")
    model = load(path, source_file(testing.batch(64).numpy(), tmp_path))
    adapter = Tent(model.module)
    testing.learn(adapter)
    got = run(
        open_session(model.graph.patched(onnx_export.floats(adapter.servable()))), testing.batch(8).numpy()
    )
    assert np.isfinite(got).all()


def test_source_inputs_that_lead_to_infinity_are_refused(tmp_path):
    path = by_torchscript(lively(testing.tiny_net("batch")), testing.batch(2), tmp_path / "net.onnx")
    with pytest.raises(ConfigError, match=r"TTA_MODEL__SOURCE_DATA: layer .* not finite"):
        load(path, source_file(np.full((4, 1, 8, 8), 3e38, np.float32), tmp_path))


CONVS = """a = Conv<pads=[1,1,1,1]>(x, {first}) b = Relu(a) s = GlobalAveragePool(b) g = Conv(s, {gate})
h = Sigmoid(g) n = Mul(b, h) """
HEAD = "m = ReduceMean<axes=[2,3], keepdims=0>(n) y = Gemm(m, head, shift)"
EYES = "float[2,2,1,1] {} = {{1.0, 2.0, 3.0, 4.0}}, float[2] {} = {{0.5, 0.25}}"


def convs(first, gate, folder, body=CONVS):
    weights = ", ".join(EYES.format(*pair) for pair in (first, gate))
    head = "float[2,2] head = {1.0, 2.0, 3.0, 4.0}, float[2] shift = {0.1, 0.2}"
    body = body.format(first=", ".join(first), gate=", ".join(gate)).replace("<pads=[1,1,1,1]>", "")
    return onnx_import.load(parsed(body + HEAD, folder, weights=f"{weights}, {head}"))


@pytest.mark.parametrize(
    ("first", "gate", "sites"),
    [
        (("k1", "v1"), ("k2", "v2"), 1),  # no name tells: the gate, on one place, is none
        (("c1_w_0", "c1_b_0"), ("c2_w_0", "c2_b_0"), 0),  # biases of the model's own
        (("c1_w_0", "bn1_b_0"), ("c2_w_0", "c2_b_0"), 1),
        (("c1_kernel_fused_bn", "c1_bias_fused_bn"), ("c2_kernel", "c2_bias"), 1),
    ],
)
def test_names_and_structure_tell_which_layers_were_folded(first, gate, sites, tmp_path):
    built = convs(first, gate, tmp_path)
    assert built.folded == len(chosen(built.module, built.graph.slots, "auto", with_source=False)) == sites


THREE = ", ".join(EYES.format(f"k{i}", f"v{i}") for i in (1, 2, 3))
SMALL = """a = Conv(x, k1, v1) b = Relu(a) s = GlobalAveragePool(b) g = Conv(s, k2, v2) h = Relu(g)
c = Conv(h, k3, v3) y = Flatten(c)"""
WIDE = """a = Conv(x, k1, v1) b = Relu(a) g = Conv(b, k2, v2) h = Relu(g) c = Conv(h, k3, v3)
m = GlobalAveragePool(c) y = Flatten(m)"""


@pytest.mark.parametrize(("body", "sites"), [(SMALL, 1), (WIDE, 2)])
def test_a_head_of_a_convolution_and_a_layer_of_one_place_are_no_sites(body, sites, tmp_path):
    built = onnx_import.load(parsed(body, tmp_path, weights=THREE))
    assert built.folded == len(chosen(built.module, built.graph.slots, "auto")) == sites


def test_statistics_over_batches_are_those_of_all_inputs_at_once(tmp_path):
    built = convs(("k1", "v1"), ("k2", "v2"), tmp_path)
    (path,) = chosen(built.module, built.graph.slots, "auto")
    x = np.random.default_rng(0).standard_normal((100, 2, 4, 4), dtype=np.float32)
    x += np.arange(100, dtype=np.float32)[:, None, None, None]  # batches differ from one another
    mean, var = statistics(built.module, [path], x)[path]
    answer = built.module.get_submodule(path)(torch.from_numpy(x)).detach().transpose(0, 1).flatten(1)
    assert torch.allclose(mean, answer.mean(1), rtol=1e-4)
    assert torch.allclose(var, answer.var(1), rtol=1e-4)


def test_a_net_that_has_a_normalisation_is_given_no_other(tmp_path):
    body = "a = Conv(x, c1_w_0, c1_b_0) b = BatchNormalization(a, g, h, m0, v0) n = Relu(b) " + HEAD
    held = f"{EYES.format('c1_w_0', 'c1_b_0')}, float[2,2] head = {{1.0, 2.0, 3.0, 4.0}}"
    held += "".join(f", float[2] {name} = {{0.5, 1.5}}" for name in ("shift", "g", "h", "m0", "v0"))
    built = onnx_import.load(parsed(body, tmp_path, weights=held))
    assert census(built.module) == {"BatchNorm": 1}
    assert chosen(built.module, built.graph.slots, "auto", with_source=True) == []


def test_a_net_that_never_had_a_normalisation_gets_one_from_source_inputs_and_says_so(tmp_path, caplog):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    path = by_torchscript(net.eval(), testing.batch(2), tmp_path / "net.onnx")
    with caplog.at_level(logging.INFO):
        assert census(load(path).module) == {}
        model = load(path, source_file(testing.batch(64).numpy(), tmp_path))
    assert census(model.module) == {"BatchNorm": 2}  # not the one of one place, nor the head
    assert "would give 2 layers some" in caplog.text
    assert "2 layers without normalisation got one, with statistics of 64 source inputs" in caplog.text
    assert set(onnx_import.can_adapt(model.module, model.shape)) >= {"norm", "tent", "adamixbn"}


AFFINE = """c = Conv(x, k1, v1) p = Mul(c, scale) a = Add(p, shift) b = Relu(a) n = Conv(b, k2, v2) """
LAST = """c = Conv(x, k1, v1) t = Transpose<perm=[0,2,3,1]>(c) p = Mul(t, scale) a = Add(shift, p) r = Relu(a)
b = Transpose<perm=[0,3,1,2]>(r) n = Conv(b, k2, v2) """


@pytest.mark.parametrize(
    ("body", "sizes"), [(AFFINE, "1,2,1,1"), (AFFINE, "2,1,1"), (LAST, "1,1,1,2"), (LAST, "2")]
)
def test_a_scale_and_shift_that_stand_alone_are_a_site(body, sizes, tmp_path):
    weights = [EYES.format(f"k{i}", f"v{i}") for i in (1, 2)]
    weights += [f"float[{sizes}] scale = {{0.5, 2.0}}, float[{sizes}] shift = {{0.25, -1.0}}"]
    weights += ["float[2,2] head = {1.0, 2.0, 3.0, 4.0}, float[2] bias = {0.1, 0.2}"]
    path = parsed(body + HEAD.replace("shift", "bias"), tmp_path, weights=", ".join(weights))
    x = np.random.default_rng(0).standard_normal((40, 2, 4, 4), dtype=np.float32)
    model = load(path, source_file(x, tmp_path))
    assert census(model.module) == {"scale and shift": 1, "BatchNorm": 1}
    adapter = Norm(model.module)
    shifted = torch.from_numpy(2 * x + 1)
    adapter.step(shifted, adapter.forward(shifted), testing.everyone(shifted))
    version = onnx.load_from_string(model.graph.patched(onnx_export.floats(adapter.servable())))
    before = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    now = {t.name: numpy_helper.to_array(t) for t in version.graph.initializer}
    moved = {name for name in now if not np.array_equal(now[name], before[name])}
    assert moved == {"scale", "shift"}
    got = run(open_session(version.SerializeToString()), x)
    assert np.allclose(got, onnx_export.answers(adapter.servable(), x), rtol=1e-4, atol=1e-4)


def test_a_scale_and_shift_of_the_models_input_are_preprocessing(tmp_path):
    body = "p = Mul(x, scale) a = Add(p, shift) n = Conv(a, k1, v1) "
    weights = "float[1,2,1,1] scale = {0.5, 2.0}, float[1,2,1,1] shift = {0.25, -1.0}"
    weights += (
        f", float[2,2] head = {{1.0, 2.0, 3.0, 4.0}}, {EYES.format('k1', 'v1')}, float[2] bias = {{0.1, 0.2}}"
    )
    built = onnx_import.load(parsed(body + HEAD.replace("shift", "bias"), tmp_path, weights=weights))
    assert census(built.module) == {}


def test_a_batch_axis_of_minus_one_is_a_free_one(tmp_path):
    body = "n = Relu(x) " + HEAD
    weights = "float[2,2] head = {1.0, 2.0, 3.0, 4.0}, float[2] shift = {0.1, 0.2}"
    proto = onnx.load(parsed(body, tmp_path, weights=weights))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = -1
    path = saved(proto, tmp_path)
    assert load_shape(path, (2, 4, 4)) == (2, 4, 4)
    with pytest.raises(ConfigError, match=r"samples of shape \[2, '\?', 4\]"):
        onnx_import.load(path)


def load_shape(path, shape):
    model = loader.load(None, None, None, onnx=path, device="cpu", shape=shape)
    assert run(open_session(model.graph.patched({})), np.zeros((3, *shape), np.float32)).shape == (3, 2)
    return model.shape


def test_sites_are_chosen_by_name_and_refused_where_there_can_be_none(tmp_path):
    built = convs(("k1", "v1"), ("k2", "v2"), tmp_path)
    every = chosen(built.module, built.graph.slots, "*")
    assert len(every) == 2
    assert chosen(built.module, built.graph.slots, f"{every[1]}, [{every[1]}]") == every[1:]
    assert chosen(built.module, built.graph.slots, "?") == every
    assert chosen(built.module, built.graph.slots, "none") == []
    with pytest.raises(ConfigError, match="TTA_MODEL__SITES=nowhere: no layer of the file is called so"):
        chosen(built.module, built.graph.slots, "nowhere")
    head = next(name for name, m in built.module.named_modules() if isinstance(m, nn.Linear))
    with pytest.raises(ConfigError, match=r"a site needs a bias in the graph, .* is not the head"):
        chosen(built.module, built.graph.slots, head)


def test_layers_that_share_their_weights_become_sites_of_their_own(tmp_path):
    body = "a = Conv(x, k, v) b = Relu(a) c = Conv(b, k, v) n = Relu(c) "
    weights = (
        f"{EYES.format('k', 'v')}, float[2,2] head = {{1.0, 2.0, 3.0, 4.0}}, float[2] shift = {{0.1, 0.2}}"
    )
    path = parsed(body + HEAD, tmp_path, weights=weights)
    x = np.random.default_rng(0).standard_normal((40, 2, 4, 4), dtype=np.float32)
    model = load(path, source_file(x, tmp_path))
    assert len(sites_of(model.module)) == 2
    served = copy.deepcopy(model.module)
    for i, site in enumerate(sites_of(served)):
        served.get_submodule(site).weight.data.mul_(1.5 + i)
    got = run(open_session(model.graph.patched(onnx_export.floats(served))), x)
    assert np.allclose(got, onnx_export.answers(served, x), rtol=1e-4, atol=1e-4)
    assert saved(onnx.load_from_string(model.graph.patched({})), tmp_path)
