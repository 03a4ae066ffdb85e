"""One atomic file, or a clear refusal."""

import numpy as np
import pytest
import torch

from tta_agent.core.errors import CheckpointError
from tta_agent.pipeline import checkpoint

STATE = {"weights": torch.arange(4.0), "positions": {("inference", 3): 17}, "counts": (1, 2), "none": None}


def test_round_trip(tmp_path):
    path = tmp_path / "store" / "checkpoint.pt"
    assert checkpoint.load(path, "model/tent") is None
    checkpoint.save(path, "model/tent", STATE)
    found = checkpoint.load(path, "model/tent")
    assert torch.equal(found["weights"], STATE["weights"])
    assert {name: found[name] for name in ("positions", "counts", "none")} == {
        name: STATE[name] for name in ("positions", "counts", "none")
    }
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.pt"]
    checkpoint.save(path, "model/tent", STATE)
    assert sorted(p.name for p in path.parent.iterdir()) == ["checkpoint.pt", "checkpoint.pt.before"]


def test_another_model_or_adapter_is_refused(tmp_path):
    checkpoint.save(tmp_path / "c.pt", "model/tent", STATE)
    with pytest.raises(CheckpointError, match="another model, adapter"):
        checkpoint.load(tmp_path / "c.pt", "model/norm")


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_damage_is_refused_with_advice(tmp_path, damage):
    path = tmp_path / "c.pt"
    checkpoint.save(path, "m", STATE)
    path.write_bytes(path.read_bytes()[:-50] if damage is None else damage)
    with pytest.raises(CheckpointError, match="choose another TTA_STORE__PATH, or remove"):
        checkpoint.load(path, "m")


def saved_twice(path):
    for number in (1, 2):
        checkpoint.save(path, "m", {**STATE, "number": number})


def test_no_flipped_bit_loads_silently(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save(path, "m", STATE)
    sound, random = path.read_bytes(), np.random.default_rng(0)
    for place in [*range(0, 90, 7), *random.integers(0, len(sound), 80)]:
        damaged = bytearray(sound)
        damaged[place] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"damaged|cannot be read"):
            checkpoint.load(path, "m")


def test_where_the_latest_is_damaged_the_one_before_is_read_and_that_is_said(tmp_path, caplog):
    path = tmp_path / "c.pt"
    saved_twice(path)
    assert checkpoint.load(path, "m")["number"] == 2
    path.write_bytes(path.read_bytes()[:-1])
    assert checkpoint.load(path, "m")["number"] == 1
    assert "checksum does not fit" in caplog.text and "c.pt.before" in caplog.text


def test_a_crash_between_the_two_renames_leaves_the_one_before(tmp_path):
    path = tmp_path / "c.pt"
    saved_twice(path)
    path.unlink()
    assert checkpoint.load(path, "m")["number"] == 1


def test_where_both_are_damaged_both_are_named(tmp_path):
    path = tmp_path / "c.pt"
    saved_twice(path)
    path.write_bytes(b"")
    checkpoint.before(path).write_bytes(b"tta-agent checkpoint\nnonsense")
    with pytest.raises(CheckpointError, match=r"c\.pt cannot be read[^\n]*\n.*c\.pt\.before is damaged"):
        checkpoint.load(path, "m")
