"""The anchor set: drawn evenly, corrupted once, answered by anything that answers."""

import numpy as np
import pytest

from tta_agent import testing
from tta_agent.core.errors import ConfigError
from tta_agent.evaluation.anchor_set import LIGHT, AnchorSet, stratified
from tta_agent.models.onnx_export import GraphTemplate, answers
from tta_agent.models.ort_sessions import open_session

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.2, 0.25)


def npz(folder, labels=True, n=120):
    rng = np.random.default_rng(0)
    arrays = {"inputs": rng.integers(0, 256, (n, 3, 8, 8), dtype=np.uint8)}
    if labels:
        arrays["labels"] = np.r_[np.zeros(n - 30), np.ones(20), np.full(10, 2)].astype(np.int64)
    path = folder / "anchor.npz"
    np.savez(path, **arrays)
    return path


def read(path, count=45, **more):
    return AnchorSet.read(path, (3, 8, 8), MEAN, STD, count, **more)


def test_classes_come_evenly_as_far_as_there_are_some(tmp_path):
    anchor = read(npz(tmp_path))
    assert np.bincount(anchor.labels).tolist() == [18, 17, 10]
    assert len(read(npz(tmp_path), count=1000)) == 120
    assert (read(npz(tmp_path), seed=0).inputs == anchor.inputs).all()
    assert not (read(npz(tmp_path), seed=1).inputs == anchor.inputs).all()


def test_rows_are_drawn_once_each():
    labels = np.arange(1000) % 7
    rows = stratified(labels, 100, 3)
    assert len(set(rows.tolist())) == 100
    assert set(np.bincount(labels[rows]).tolist()) <= {14, 15}


def test_labels_are_needed_where_the_set_was_named(tmp_path):
    path = npz(tmp_path, labels=False)
    with pytest.raises(ConfigError, match=r"no labels; expected an \.npz"):
        read(path)
    assert read(path, must=False) is None
    with pytest.raises(ConfigError, match="one label a sample"):
        AnchorSet(np.zeros((3, 1)), np.zeros(2))


def test_views_are_light_corruptions_of_the_same_pixels_made_once(tmp_path):
    anchor = read(npz(tmp_path))
    views = anchor.views()
    assert list(views) == ["clean", *LIGHT]
    assert anchor.views() is views
    pixels = {k: v * np.reshape(STD, (3, 1, 1)) + np.reshape(MEAN, (3, 1, 1)) for k, v in views.items()}
    for name in LIGHT:
        assert views[name].dtype == np.float32 and views[name].shape == anchor.inputs.shape
        assert pixels[name].min() > -1e-5 and pixels[name].max() < 1 + 1e-5
        assert 0.001 < np.abs(pixels[name] - pixels["clean"]).mean() < 0.3
    again = read(npz(tmp_path)).views()
    assert all((views[name] == again[name]).all() for name in views)


def test_what_is_no_square_image_has_only_the_clean_view():
    for shape in ((16,), (5, 8, 8), (3, 8, 9)):
        assert list(AnchorSet(np.zeros((4, *shape)), np.zeros(4)).views()) == ["clean"]


def test_sessions_and_functions_answer_alike_whatever_the_batch():
    rng = np.random.default_rng(0)
    anchor = AnchorSet(rng.random((23, 1, 8, 8)), np.arange(23) % 4)
    module = testing.tiny_net("batch")
    session = open_session(GraphTemplate(module, (1, 8, 8)).compose(module))
    by_session = anchor.answers(session, batch=10)
    by_module = anchor.answers(lambda x: answers(module, x), batch=23)
    assert list(by_session) == list(anchor.views())
    for name in by_session:
        assert by_session[name].shape == (23, 4)
        assert np.allclose(by_session[name], by_module[name], atol=1e-4)
    found = anchor.compare(by_session, by_module)
    assert found.labels is anchor.labels and found.serving is by_session and found.candidate is by_module
