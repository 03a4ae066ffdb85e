"""Both clients of Kafka: what one promises, the other has to keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # slow to import
    from tta_agent.stream.kafka.group_client import ClientName


@pytest.fixture(params=["kafka-python", "confluent-kafka"])
def client(request: pytest.FixtureRequest) -> ClientName:
    """The library by which Kafka is read, both in turn."""
    if request.param == "confluent-kafka":
        pytest.importorskip("confluent_kafka", reason="needs the extra [fast]")
    name: ClientName = request.param
    return name
