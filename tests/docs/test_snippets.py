"""Code of the pages: it runs, and the agent reads the records that it writes."""

import json
import re
from functools import partial
from pathlib import Path

import kafka as kafka_python
import numpy as np
import pytest

from tta_agent.core.types import Label, RawRecord, Record
from tta_agent.stream.codecs.auto import AutoCodec
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.stream.codecs.oip_json import OipJson
from tta_agent.stream.embedded.consumer import EmbeddedProducer, EmbeddedStreamConsumer
from tta_agent.stream.kafka.consumer import KafkaStreamConsumer, ensure_topics

DOCS = Path(__file__).parents[2] / "docs"
TOPICS = ["inference", "inference.labels"]
X = np.random.default_rng(0).random((2, 1, 4, 4), np.float32)
LOGITS = np.eye(2, 3, dtype=np.float32)
CODEC = AutoCodec({"cloudevents": CloudEvents(), "oip_json": OipJson()})


def snippet(page, word):
    """The fenced Python block of a page that holds a word."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    return next(block for block in blocks if word in block)


def decoded(raws):
    return [item for raw in raws for item in CODEC.decode(raw, (1, 4, 4), 3)]


def check(items):
    """Two samples of one request, and the label of the second."""
    records = sorted((item for item in items if isinstance(item, Record)), key=lambda record: record.id)
    labels = [item for item in items if isinstance(item, Label)]
    assert [(record.id, record.version, record.key) for record in records] == [
        ("req-1#0", 3, "req-1"),
        ("req-1#1", 3, "req-1"),
    ]
    assert all((record.x == x).all() for record, x in zip(records, X, strict=True))
    assert all((record.served == z).all() for record, z in zip(records, LOGITS, strict=True))
    assert [(label.id, label.label) for label in labels] == [("req-1#1", 2)]


def produce(names):
    names["log_inference"]("req-1", X, LOGITS, 3)
    names["log_label"]("req-1#1", 2)
    names["producer"].close()


class Embedded:
    """`kafka.KafkaProducer` in front of the embedded log."""

    def __init__(self, path, bootstrap_servers):
        self._to = EmbeddedProducer(path)

    def send(self, topic, value):
        self._to.send(topic, None, value)

    def close(self):
        self._to.close()


def test_the_producer_of_ten_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(kafka_python, "KafkaProducer", partial(Embedded, tmp_path / "log.db"))
    names = {}
    exec(snippet("guide/own-server.md", "def log_inference"), names)
    produce(names)
    consumer = EmbeddedStreamConsumer(tmp_path / "log.db", TOPICS, "test", start="earliest")
    check(decoded([*consumer.poll(1.0), *consumer.poll(0.0)]))
    consumer.close()


@pytest.mark.kafka
def test_the_producer_of_ten_lines_on_kafka(kafka):
    ensure_topics(kafka, TOPICS, 1)
    names = {}
    exec(snippet("guide/own-server.md", "def log_inference").replace("localhost:9092", kafka), names)
    produce(names)
    consumer, raws = KafkaStreamConsumer(kafka, TOPICS, "docs", start="earliest"), []
    while len(raws) < 2:
        raws += consumer.poll(1.0)
    check(decoded(raws))
    consumer.close()


def test_raw_tensors_after_the_head():
    names = {"json": json}
    exec(snippet("guide/own-server.md", "def binary_body"), names)
    length, body = names["binary_body"]("req-1", X, LOGITS, 3)
    about = {"specversion": "1.0", "type": "io.tta.inference.v1", "id": "req-1", "source": "/v2/models/model"}
    about |= {"inferenceheadercontentlength": str(length), "entitykey": "camera-7"}
    headers = tuple((f"ce_{name}", value.encode()) for name, value in about.items())
    raw = RawRecord(
        "inference", 0, 0, 0, None, body, (*headers, ("content-type", b"application/octet-stream"))
    )
    records = decoded([raw])
    assert [(record.id, record.version, record.key) for record in records] == [
        ("req-1#0", 3, "camera-7"),
        ("req-1#1", 3, "camera-7"),
    ]
    assert all((record.x == x).all() for record, x in zip(records, X, strict=True))
