"""The demo from a default export: a file without BatchNorms, which source images give back."""

import numpy as np
import onnx

from tta_agent.cli import demo
from tta_agent.demo import default_export
from tta_agent.models import loader
from tta_agent.models.batchnorm import census
from tta_agent.models.onnx_export import answers
from tta_agent.samples import dataset


def test_the_file_is_folded_and_its_statistics_come_from_images_that_do_not_arrive(tmp_path):
    images = dataset.load()
    names, left = demo._default_export(tmp_path, images)
    graph = onnx.load(names["TTA_MODEL__ONNX"]).graph
    assert not any(node.op_type == "BatchNormalization" for node in graph.node)
    source = np.load(names["TTA_MODEL__SOURCE_DATA"])["inputs"]
    assert len(source) == default_export.SOURCE
    assert len(left.labels) == len(left.inputs) == len(images.labels) - len(source)
    assert np.array_equal(source, images.inputs[len(left.labels) :])
    model = loader.load(
        None, None, None, onnx=tmp_path / "model.onnx", source_data=tmp_path / "source.npz", device="cpu"
    )
    assert census(model.module) == {"BatchNorm": 9}
    kept = loader.load(
        None,
        "tta_agent.samples.nets:fashion_net",
        dataset.ASSETS / dataset.WEIGHTS,
        shape=(1, 28, 28),
        device="cpu",
    )
    x = images.inputs[:64].astype(np.float32) / 255
    assert np.allclose(answers(model.module, x), answers(kept.module, x), atol=1e-3)
    assert model.shape == kept.shape


def test_the_processes_are_told_the_file_and_no_factory(tmp_path, monkeypatch):
    for name in [name for name in demo.os.environ if name.startswith("TTA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(demo.os, "environ", dict(demo.os.environ))
    plan = demo._plan("fog", 3, 10.0, 0.3, 1.0, 0)
    file, data = tmp_path / "model.onnx", tmp_path / "source.npz"
    model = {"TTA_MODEL__ONNX": str(file), "TTA_MODEL__SOURCE_DATA": str(data)}
    monkeypatch.setattr(demo.env, "load", lambda: None)
    _, environ = demo._world(tmp_path, None, plan, model)
    assert environ["TTA_MODEL__ONNX"] == str(file)
    assert "TTA_MODEL__FACTORY" not in environ
