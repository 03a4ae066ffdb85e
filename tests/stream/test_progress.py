"""Partitions that have records and deliver none are found, and sought anew."""

from __future__ import annotations

import contextlib
import uuid

import pytest
from kafka import TopicPartition

from tests.parts.serving import eventually
from tta_agent.stream.kafka.consumer import KafkaStreamConsumer, KafkaStreamProducer, ensure_topics
from tta_agent.stream.kafka.group_client import ClientName
from tta_agent.stream.kafka.progress import Progress

ONE, TWO = ("t", 0), ("t", 1)


def test_only_what_stands_still_with_records_after_it_has_stalled() -> None:
    watch = Progress(60.0)
    ends = {ONE: 10, TWO: 10}
    assert watch.stalled({ONE: 5, TWO: 10}, ends, 0.0, paused=False) == []
    assert watch.stalled({ONE: 5, TWO: 10}, ends, 59.0, paused=False) == []
    assert watch.stalled({ONE: 5, TWO: 10}, ends, 60.0, paused=False) == [ONE]
    assert watch.stalled({ONE: 5, TWO: 10}, ends, 61.0, paused=False) == []  # again only after as long
    assert watch.stalled({ONE: 5, TWO: 10}, ends, 121.0, paused=False) == [ONE]


def test_a_step_a_pause_and_a_partition_that_goes_begin_anew() -> None:
    for between in ({"positions": {ONE: 6}}, {"paused": True}, {"positions": {}}):
        watch = Progress(60.0)
        watch.stalled({ONE: 5}, {ONE: 10}, 0.0, paused=False)
        watch.stalled(**{"positions": {ONE: 5}, "ends": {ONE: 10}, "now_s": 50.0, "paused": False, **between})  # type: ignore[arg-type]
        assert watch.stalled({ONE: 5}, {ONE: 10}, 70.0, paused=False) == []


@pytest.mark.slow
@pytest.mark.kafka
def test_a_partition_that_the_client_has_forgotten_delivers_again(
    kafka: str, client: ClientName, caplog: pytest.LogCaptureFixture
) -> None:
    topic = f"p{uuid.uuid4().hex[:8]}"
    ensure_topics(kafka, [topic], 1)
    consumer = KafkaStreamConsumer(kafka, [topic], topic, start="earliest", client=client)
    consumer._progress = Progress(0.3)
    with contextlib.closing(consumer), contextlib.closing(KafkaStreamProducer(kafka)) as producer:
        eventually(lambda: consumer.poll(0.1) or consumer.assignment(), 20.0)
        consumer._consumer.pause(TopicPartition(topic, 0))  # nobody of ours knows of it
        producer.send(topic, b"k", b"v")
        producer.flush()
        assert not consumer.poll(0.5) and consumer.lag() == 1
        assert not consumer.poll(0.5) and consumer.lag() == 1
        found = [raw.value for _ in range(20) for raw in consumer.poll(0.5)]
        assert found == [b"v"]
        assert "it is sought anew" in caplog.text
