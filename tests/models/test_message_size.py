"""Graphs that no protobuf message can hold, whose serialisation fails where a size was asked for, too."""

from __future__ import annotations

import onnx
import pytest

from tests.serving.test_large_models import available_bytes
from tta_agent.core.errors import GraphError
from tta_agent.models.message_size import MESSAGE, serialised, size_of

PART = 900 << 20


def graph_of(*sizes: int) -> onnx.ModelProto:
    """A graph of tensors of so many bytes."""
    proto = onnx.ModelProto()
    for size in sizes:
        proto.graph.initializer.add(raw_data=bytes(size))
    return proto


def test_a_graph_that_fits_is_serialised() -> None:
    proto = graph_of(100, 200)
    assert onnx.load_from_string(serialised(proto, "it has", "go")) == proto
    assert size_of(proto) == len(proto.SerializeToString())


@pytest.mark.slow
def test_a_graph_of_more_than_two_gib_is_told_with_its_size() -> None:
    if available_bytes() < 6 << 30:
        pytest.skip("less than 6 GiB of memory are free")
    proto = graph_of(PART, PART, PART)
    assert size_of(proto) >= 3 * PART > MESSAGE
    with pytest.raises(
        GraphError, match=r"it has 2\.64 GiB, and one ONNX file holds 2\.00 GiB.*\nname another"
    ):
        serialised(proto, "it has", "name another")
