"""Models above the limit of one message: large tensors stay in the file beside the graph, unless they change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests.parts import large
from tta_agent.core.errors import ConfigError, GraphError
from tta_agent.models import external_data, message_size, onnx_export, onnx_import, weight_delta
from tta_agent.models.inspection import inspect
from tta_agent.models.onnx_export import GraphTemplate
from tta_agent.models.ort_sessions import open_session, raw_answer

ROWS, WIDTH = 64, 512
X = large.ids(5, ROWS)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of 130 KiB, where one message holds 64."""
    monkeypatch.setattr(message_size, "LARGEST", 64 << 10)
    return large.model(tmp_path / "served", ROWS, WIDTH)


def test_a_version_holds_the_tensors_that_have_changed(path: Path) -> None:
    built = onnx_import.load(path)
    before = built.graph.patched({})
    tensors = onnx_export.floats(built.module)
    after = built.graph.patched({**tensors, "norm.bias": tensors["norm.bias"] + 1})
    assert large.changed(after) - large.changed(before) == {"norm.bias"}
    assert built.graph.data is not None and built.graph.data.size == (path.parent / large.DATA).stat().st_size
    session = open_session(after, data=built.graph.data)
    with torch.no_grad():
        built.module.get_parameter("norm.bias").add_(1)
    assert np.allclose(raw_answer(session, X), onnx_export.answers(built.module, X), atol=1e-3)
    assert not np.allclose(raw_answer(session, X), raw_answer(open_session(path), X), atol=1e-1)


def test_a_delta_gives_the_version_byte_for_byte(path: Path) -> None:
    built = onnx_import.load(path)
    tensors = onnx_export.floats(built.module)
    graph = built.graph.patched({**tensors, "norm.bias": tensors["norm.bias"] + 1})
    delta = weight_delta.changed(built.graph.patched({}), graph)
    assert delta is not None and weight_delta.sizes(delta) == {"norm.bias": 4 * WIDTH}
    assert weight_delta.compose(built.graph.patched({}), delta) == graph
    assert weight_delta.same_structure(graph, built.graph.patched({}))


def test_the_template_proves_what_fits_into_a_message(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    built = onnx_import.load(path)
    template = GraphTemplate(built.module, built.shape, built.graph)
    assert template.patchable and not caplog.records
    with torch.no_grad():
        built.module.get_parameter("table.weight").add_(1)
    with pytest.raises(
        GraphError, match=r"the tensors that have changed have 0.00 GiB, and one ONNX file holds"
    ):
        template.compose(built.module)


def test_a_model_is_inspected(path: Path) -> None:
    report = inspect(path, ("tent",))
    assert report.adapters == {"tent": None} and not report.obstacles
    assert report.parity["version"] < 1e-4
    assert report.version["bytes"] < 8 * WIDTH + 500 < (path.parent / large.DATA).stat().st_size
    assert report.version["file"] > ROWS * WIDTH * 4


def test_distances_of_versions_are_those_of_their_values(path: Path, tmp_path: Path) -> None:
    built = onnx_import.load(path)
    tensors = onnx_export.floats(built.module)
    other = path.with_name("other.onnx")
    other.write_bytes(built.graph.patched({**tensors, "norm.weight": tensors["norm.weight"] * 3}))
    ((layer, differ, apart, of),) = weight_delta.distances(path, other)
    assert (layer, differ) == ("norm", 1)
    assert apart == pytest.approx(2 * WIDTH**0.5) and of == pytest.approx(WIDTH**0.5)


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"location": "../elsewhere"}, "expected one beside the graph"),
        ({"location": "/etc/hostname"}, "expected one beside the graph"),
        ({"length": "8"}, "has 8 bytes in model.onnx.data; expected 131072"),
        ({"offset": str(1 << 20)}, "mmap length is greater than file size"),
        ({"location": "lost.data"}, "lost.data"),
    ],
)
def test_a_tensor_that_is_not_in_its_file_is_refused(path: Path, entries: dict[str, str], told: str) -> None:
    proto = onnx.load(path, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        entry.value = entries.get(entry.key, entry.value)
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ConfigError, match=told):
        onnx_import.load(path)


def test_a_link_out_of_the_folder_is_not_followed(path: Path, tmp_path: Path) -> None:
    (path.parent / large.DATA).rename(tmp_path / "elsewhere")
    (path.parent / large.DATA).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="expected one beside the graph"):
        onnx_import.load(path)


def test_a_single_file_above_the_limit_is_told_how_to_be_saved(tmp_path: Path) -> None:
    with (tmp_path / "one.onnx").open("wb") as file:
        file.truncate(message_size.MESSAGE + 1)  # takes no place
    with pytest.raises(
        ConfigError, match=r"it has 2.00 GiB, and one ONNX file holds 2.00 GiB at most;\nsave it"
    ):
        onnx_import.load(tmp_path / "one.onnx")
    (obstacle,) = inspect(tmp_path / "one.onnx").obstacles
    assert obstacle.found.startswith("it has 2.00 GiB") and "save_as_external_data=True" in obstacle.remedy


def test_an_export_above_the_limit_names_the_way_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_size, "LARGEST", 1 << 10)
    with pytest.raises(
        GraphError, match=r"its export has 0.00 GiB, .*;\nname the served file with its weights"
    ):
        GraphTemplate(torch.nn.Linear(32, 32).eval(), (32,))


def test_squares_are_added_up_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_data, "_PORTION", 7)
    a, b = (np.random.default_rng(n).normal(size=(5, 9)).astype(np.float32) for n in (1, 2))
    assert external_data.squares(a) == pytest.approx(float(np.square(a).sum()), rel=1e-5)
    assert external_data.squares(a, b) == pytest.approx(float(np.square(b - a).sum()), rel=1e-5)
