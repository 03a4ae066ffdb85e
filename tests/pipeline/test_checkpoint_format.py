"""A checkpoint of another format is refused with what to do."""

import pytest
import torch

from tta_agent.core.errors import CheckpointError
from tta_agent.pipeline import checkpoint

ADVICE = r"another model, adapter or version of tta-agent; choose another TTA_STORE__PATH, or remove .*c\.pt"


@pytest.mark.parametrize("number", [checkpoint.FORMAT + 1, 4, None])
def test_another_format_is_refused_with_advice(tmp_path, monkeypatch, number):
    path = tmp_path / "c.pt"
    monkeypatch.setattr(checkpoint, "FORMAT", number)
    checkpoint.save(path, "m", {"weights": torch.ones(3)})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=ADVICE):
        checkpoint.load(path, "m")


def test_so_is_a_file_of_before_there_were_checksums(tmp_path):
    torch.save({"format": 4, "fingerprint": "m"}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=ADVICE):
        checkpoint.load(tmp_path / "c.pt", "m")


def test_the_format_stands_in_the_file(tmp_path):
    checkpoint.save(tmp_path / "c.pt", "m", {})
    assert checkpoint.load(tmp_path / "c.pt", "m")["format"] == checkpoint.FORMAT


def test_the_format_before_is_read_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 7)
    checkpoint.save(tmp_path / "c.pt", "m", {"positions": {"t": 7}})
    monkeypatch.undo()
    found = checkpoint.load(tmp_path / "c.pt", "m")
    assert found["format"] == checkpoint.FORMAT == 8 and found["positions"] == {"t": 7}
