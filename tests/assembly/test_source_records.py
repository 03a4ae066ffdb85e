"""Source data from the last records: inputs as the model takes them, by what was served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.assembly.test_doctor import PIXELS, answers, body, invoked, served, settings, write  # noqa: F401
from tta_agent.assembly.source_records import collect
from tta_agent.core.errors import ConfigError
from tta_agent.models.source_data import read_source_data
from tta_agent.settings import env
from tta_agent.settings.schema import Settings


def pixels(inputs: np.ndarray) -> list[bytes]:
    """Of each image; partitions are read in no order."""
    return sorted(bytes(one) for one in np.rint(inputs * 255).astype(np.uint8))


def test_the_command_writes_what_the_setting_reads(settings: Settings, tmp_path: Path) -> None:  # noqa: F811
    x = PIXELS.astype(np.float32) / 255
    write(settings, served(PIXELS, answers(x)))
    file = tmp_path / "source.npz"
    status, result = invoked("model", "source-data", str(file), "--records", "24")
    assert status == 0 and "24 records, prepared as div255" in result.stdout, result.output
    inputs, labels = read_source_data(file, (1, 28, 28), (0.0,), (1.0,))
    assert labels is None and pixels(inputs) == pixels(x)
    assert invoked("model", "source-data", str(file))[0] != 0, "what is there stays"
    assert invoked("model", "source-data", str(tmp_path / "source.json"))[0] != 0


def test_without_answers_the_setting_says_how_inputs_are_prepared(
    settings: Settings,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(settings, [body(i, PIXELS[i : i + 1], None) for i in range(8)])
    with pytest.raises(ConfigError, match="TTA_STREAM__INPUTS"):
        collect(settings, 8)
    monkeypatch.setenv("TTA_STREAM__INPUTS", "div255")
    inputs, way = collect(env.load(), 8)
    assert way == "div255" and pixels(inputs) == pixels(PIXELS[:8] / 255)


def test_what_cannot_be_source_data_is_refused_with_the_reason(settings: Settings) -> None:  # noqa: F811
    write(settings, [b"\x01junk"] * 3)
    with pytest.raises(ConfigError, match="of 3 last records of inference none can be read"):
        collect(settings, 300)
    wrong = np.random.default_rng(0).normal(size=(24, 10)).astype(np.float32)
    write(settings, served(PIXELS, wrong))
    with pytest.raises(ConfigError, match="not what the model answers"):
        collect(settings, 24)
