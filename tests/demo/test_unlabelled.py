"""The demo without labels."""

import numpy as np
import pytest

from tta_agent.core.errors import TtaError
from tta_agent.demo import unlabelled
from tta_agent.samples.dataset import LabelledImages, read_npz


def test_no_anchor_image_arrives_as_traffic(tmp_path):
    inputs = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    arriving = unlabelled.split(LabelledImages(inputs, np.arange(10)), tmp_path / "deep" / "anchor.npz")
    anchor = read_npz(tmp_path / "deep" / "anchor.npz")
    assert set(arriving.labels).isdisjoint(anchor.labels)
    assert sorted([*arriving.labels, *anchor.labels]) == list(range(10))
    assert np.array_equal(anchor.inputs.ravel(), anchor.labels)


def test_a_rehearsal_that_fails_ends_the_demo(tmp_path):
    with pytest.raises(TtaError, match="rehearsal failed"):
        unlabelled.rehearse({"TTA_GATE__ANCHOR": str(tmp_path / "none.npz")}, 1.0)
