"""Quantised files in the QDQ format: they learn as floats do, and a version has the same codes with other scales."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from benchmarks.zoo import accuracies
from tests.models.test_onnx_import import exported, images
from tests.models.test_unfold import by_torchscript, fashion, load, nets, source_file  # noqa: F401 (a fixture)
from tta_adapters.norm import Norm
from tta_adapters.tent import Tent
from tta_agent import testing
from tta_agent.core.errors import ConfigError
from tta_agent.models import onnx_export, onnx_import
from tta_agent.models.inspection import inspect
from tta_agent.models.ort_sessions import open_session, run


class Inputs(CalibrationDataReader):
    def __init__(self, x):
        self.parts = iter([{"input": part} for part in np.array_split(x, 4)])

    def get_next(self):
        return next(self.parts, None)


def quantised(path, x, *, by_channel, form=QuantFormat.QDQ, values=QuantType.QUInt8):
    out = path.with_name(f"{path.stem}-int8.onnx")
    quantize_static(
        path, out, Inputs(x), quant_format=form, per_channel=by_channel, activation_type=values,
        weight_type=QuantType.QInt8, reduce_range=True,
    )  # fmt: skip
    return out


@pytest.fixture(params=[True, False], ids=["by channel", "by tensor"])
def small(request, tmp_path):
    """A quantised residual net, and inputs like those that it was calibrated on."""
    x = images(32).numpy()
    path = by_torchscript(exported("resnet")[0], images(2), tmp_path / "net.onnx")
    return quantised(path, x, by_channel=request.param), x


def held(graph):
    return {item.name: numpy_helper.to_array(item) for item in graph.initializer}


def test_scales_and_biases_of_a_version_have_moved_and_no_code_of_a_weight(small, tmp_path):
    path, x = small
    source = load(path, source_file(x, tmp_path))
    template = onnx_export.GraphTemplate(source.module, source.shape, source.graph)
    assert template.patchable
    before = held(onnx.load_from_string(template.compose(source.module)).graph)
    shifted = torch.from_numpy(2 * x + 1)
    adapter = Tent(source.module, lr=0.01)
    for _ in range(3):
        adapter.step(shifted, adapter.forward(shifted), testing.everyone(shifted))
    served = adapter.servable()
    version = template.compose(served)
    after = held(onnx.load_from_string(version).graph)
    moved = {name for name in after if not np.array_equal(after[name], before[name])}
    codes = {name for name in moved if before[name].dtype == np.int8}
    assert (
        len(moved - codes) == 3 * 13
    )  # of each convolution: scale of the weight, scale and codes of the bias
    assert all(
        np.array_equal(np.abs(after[name]), np.abs(before[name])) for name in codes
    )  # of channels turned round
    assert all((values > 0).all() for name, values in after.items() if name.endswith("_scale"))
    got, expected = run(open_session(version), x), onnx_export.answers(served, x)
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()
    assert np.abs(got - run(open_session(path), x)).max() > 0.2 * np.abs(got).max()


def test_values_that_are_rounded_to_signed_codes_are_followed(tmp_path):
    x = images(32).numpy()
    path = by_torchscript(exported("resnet")[0], images(2), tmp_path / "net.onnx")
    path = quantised(path, x, by_channel=True, values=QuantType.QInt8)
    expected = run(open_session(path), x)
    assert np.abs(onnx_export.answers(load(path).module, x) - expected).max() < 0.05 * np.abs(expected).max()


def test_the_version_of_an_untouched_copy_answers_as_the_file(small, tmp_path):
    path, x = small
    source = load(path, source_file(x, tmp_path))
    same = source.graph.patched(onnx_export.floats(source.module))
    assert np.array_equal(run(open_session(same), x), run(open_session(path), x))
    before, after = held(onnx_import.load(path).graph.proto.graph), held(onnx.load_from_string(same).graph)
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_weights_that_change_in_any_other_way_are_rounded_to_codes_again(small):
    path, x = small
    built = onnx_import.load(path)
    changed = onnx_export.floats(built.module)
    for tensor in changed.values():
        tensor.add_(
            0.1 * tensor.abs().max() * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
        )
    got = run(open_session(built.graph.patched(changed)), x)
    expected = onnx_export.answers(built.module, x)
    assert np.abs(got - expected).max() < 0.1 * np.abs(expected).max()
    assert np.abs(got - run(open_session(path), x)).max() > 0.2 * np.abs(got).max()


def test_gradients_pass_the_rounding_and_stop_where_it_clips():
    quantize = onnx_import.builder.OPERATORS["QuantizeLinear"].call
    x = torch.tensor([-5.0, -0.4, 3.0, 99.0], requires_grad=True)
    codes = quantize(x, 0.5, 2, low=0, high=10)
    assert codes.tolist() == [0.0, 1.0, 8.0, 10.0]
    codes.sum().backward()
    assert x.grad.tolist() == [0.0, 2.0, 2.0, 0.0]


@pytest.mark.parametrize("method", [Norm, Tent])
def test_a_quantised_net_gains_what_the_float_one_gains(method, nets, tmp_path):  # noqa: F811
    streams, labels, source = fashion()
    data = source_file(source[::3][:300], tmp_path)
    path = quantised(nets["torchscript"], source[:200], by_channel=True)
    stream = streams[0][:400]
    frozen = 100 * float((run(open_session(path), stream).argmax(1) == labels[:400]).mean())
    figures = [accuracies(load(p, data), method, stream, labels[:400]) for p in (nets["torchscript"], path)]
    assert min(figures[1]) > frozen + 10
    assert all(np.abs(figures[1] - figures[0]) < 3)


def test_a_file_of_quantised_operators_is_refused_with_the_file_to_name(tmp_path):
    path = by_torchscript(exported("resnet")[0], images(2), tmp_path / "net.onnx")
    path = quantised(path, images(8).numpy(), by_channel=True, form=QuantFormat.QOperator)
    with pytest.raises(
        ConfigError, match=r"quantised operators .*;\nname the float file that it was made from"
    ):
        onnx_import.load(path)
    assert any("name the float file" in o.remedy for o in inspect(path).obstacles)


def test_a_quantised_file_that_cannot_be_followed_is_refused_with_the_float_file_to_name(small, monkeypatch):
    monkeypatch.setattr(onnx_import.reading.quantised, "TOLERANCE", -1.0)
    with pytest.raises(
        ConfigError, match=r"answers otherwise: .*;\nname the float file that it was made from"
    ):
        onnx_import.load(small[0])
