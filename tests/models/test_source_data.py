"""Source data that cannot be learnt from is named at the start."""

import zipfile

import numpy as np
import pytest

from tta_agent.core.errors import ConfigError
from tta_agent.models.source_data import read_source_data


def test_samples_that_are_not_finite_are_counted_and_the_first_is_named(tmp_path):
    inputs = np.zeros((5, 1, 2, 2), np.float32)
    inputs[3, 0, 1, 1], inputs[4, 0, 0, 0] = np.nan, np.inf
    np.savez(tmp_path / "some.npz", inputs=inputs)
    with pytest.raises(ConfigError, match=r"2 of 5 samples hold NaN or infinity; the first is sample 3"):
        read_source_data(tmp_path / "some.npz", (1, 2, 2), (0.0,), (1.0,))
    np.savez(tmp_path / "some.npz", inputs=inputs[:3])
    assert len(read_source_data(tmp_path / "some.npz", (1, 2, 2), (0.0,), (1.0,))[0]) == 3


GOOD = np.zeros((3, 1, 2, 2), np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": np.array([{}] * 3, object)}, "not an .npz of plain arrays"),
        ({"inputs": np.array(["a", "b"])}, "inputs are <U1; expected uint8 pixels or float32"),
        ({"inputs": np.float32(3)}, "samples of shape [], the model takes [1, 2, 2]"),
        ({"other": GOOD}, "no array 'inputs'; it has other"),
        ({"inputs": GOOD, "labels": np.array(["a", "b", "c"])}, "expected numbers of classes"),
        ({"inputs": GOOD, "labels": np.array([np.nan, 1, 2])}, "expected numbers of classes"),
        ({"inputs": GOOD, "labels": np.array([0.5, 1, 2])}, "expected numbers of classes"),
        ({"inputs": GOOD, "labels": np.array([1, 7, 3])}, "labels from 1 to 7; expected 0 .. 3"),
        ({"inputs": GOOD, "labels": np.array([1, -1, 3])}, "labels from -1 to 3; expected 0 .. 3"),
        ({"inputs": GOOD, "labels": np.array([1, 2])}, "3 inputs and labels of shape [2]"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_the_setting(tmp_path, arrays, message):
    path = tmp_path / "some.npz"
    np.savez(path, **arrays)
    _refused(path, message)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 broken", "truncated", "member"])
def test_files_that_are_no_npz_are_refused_by_the_setting(tmp_path, content):
    path = tmp_path / "some.npz"
    np.savez(path, inputs=np.zeros((100, 1, 2, 2), np.float32))
    if content == "truncated":
        content = path.read_bytes()[:900]
    elif content == "member":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("inputs.npy", b"no array")
        content = path.read_bytes()
    path.write_bytes(content)
    _refused(path, "not an .npz of plain arrays")


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    _refused(tmp_path, "broken.png")
    _refused(tmp_path / "none.npz", "expected an existing .npz")


def _refused(path, message):
    with pytest.raises(ConfigError) as refused:
        read_source_data(path, (1, 2, 2), (0.0,), (1.0,), classes=4, setting="TTA_GATE__ANCHOR")
    told = str(refused.value)
    assert told.startswith(f"TTA_GATE__ANCHOR={path}: ") and message in told, told
    assert len(told.splitlines()) == 1


def test_whole_numbers_as_floats_are_labels(tmp_path):
    np.savez(tmp_path / "some.npz", inputs=GOOD, labels=np.array([0.0, 1.0, 3.0]))
    _, labels = read_source_data(tmp_path / "some.npz", (1, 2, 2), (0.0,), (1.0,), classes=4)
    assert labels.tolist() == [0, 1, 3] and labels.dtype == np.int64
