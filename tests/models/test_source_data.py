"""Source data that cannot be learnt from is named at the start."""

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
