"""One atomic file, or a clear refusal."""

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
