"""The log of inferences that servers in Python write from inside."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests import worlds
from tests.parts import serving
from tta_agent import tap as taps
from tta_agent.core.errors import ConfigError
from tta_agent.core.types import RawRecord, Record
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.stream.embedded.consumer import EmbeddedStreamConsumer
from tta_agent.stream.http.consumer import HttpStreamConsumer
from tta_agent.stream.kafka.consumer import KafkaStreamConsumer
from tta_agent.tap import Tap

ROOT = Path(__file__).parents[2]
X = serving.samples(2)
Y = serving.answers(X, 0)


def opened(producer: serving.FakeProducer | None = None, **bounds: Any) -> tuple[Tap, serving.FakeProducer]:
    producer = producer or serving.FakeProducer()
    return Tap(producer, CloudEvents(), "t", "tiny", **bounds), producer


def decoded(sent: Any) -> list[Record]:
    topic, key, value, headers = sent
    found = CloudEvents().decode(
        RawRecord(topic, 0, 0, 0, key, value, headers), serving.SHAPE, serving.CLASSES
    )
    return [one for one in found if isinstance(one, Record)]


def test_an_inference_is_read_as_it_was_given() -> None:
    tap, producer = opened()
    id = tap.record(X, Y, version="v1.2", entity="camera 7")
    tap.close()
    records = decoded(producer.sent[0])
    assert [(r.id, r.version_name, r.key) for r in records] == [
        (f"{id}#{i}", "v1.2", "camera 7") for i in (0, 1)
    ]
    np.testing.assert_array_equal(np.stack([r.x for r in records]), X)
    np.testing.assert_array_equal(np.stack([r.served for r in records if r.served is not None]), Y)


def test_what_the_server_does_to_its_arrays_later_changes_nothing() -> None:
    tap, producer = opened()
    producer.gate.clear()
    tap.record(X, Y)
    x = X.copy()
    tap.record(x, Y.tolist(), id="a")
    x[:] = 9
    producer.gate.set()
    tap.close()
    np.testing.assert_array_equal(decoded(producer.sent[1])[0].x, X[0])


def test_encoded_images_are_logged_as_they_came() -> None:
    from io import BytesIO

    from PIL import Image

    file = BytesIO()
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    Image.fromarray(pixels).save(file, "PNG")
    tap, producer = opened()
    tap.record(file.getvalue(), Y[:1], id="one")
    tap.record([file.getvalue()] * 2, Y, id="two")
    tap.close()
    (one,), two = (decoded(sent) for sent in producer.sent)
    assert (one.id, one.form, len(two)) == ("one", "PNG", 2)
    np.testing.assert_array_equal(one.x[0], pixels)


def test_the_queue_is_bounded_in_records_and_in_bytes() -> None:
    for bounds in ({"capacity_records": 3}, {"capacity_bytes": 4 * (1024 + X.nbytes + Y.nbytes)}):
        tap, producer = opened(**bounds)
        producer.gate.clear()
        taken = [tap.record(X, Y) for _ in range(20)]
        assert sum(id is not None for id in taken) in (3, 4, 5)
        assert tap.counts()["dropped"] == 20 - sum(id is not None for id in taken)
        producer.gate.set()
        tap.close()
        assert tap.counts()["sent"] == len(producer.sent) == 20 - tap.counts()["dropped"]


def test_what_is_no_array_is_counted_and_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Stubborn:
        def __array__(self, *_: Any, **__: Any) -> Any:
            raise TypeError("on the GPU")

    tap, producer = opened()
    assert tap.record(Stubborn(), Y) is None and tap.record(Stubborn(), Y) is None
    tap.record(np.array(["text"]), Y)
    tap.close()
    assert (tap.counts()["failed"], tap.counts()["errors"], producer.sent) == (2, 1, [])
    assert caplog.text.count("an inference cannot be logged") == 1 and "on the GPU" in caplog.text


def test_its_counts_are_metrics_of_the_process() -> None:
    from tta_agent.telemetry import tap_counts

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    tap, _ = opened()
    tap.record(X, Y)
    tap.close()
    tap_counts._create.cache_clear()
    before, metrics._internal._METER_PROVIDER = metrics._internal._METER_PROVIDER, provider  # type: ignore[attr-defined]
    try:
        tap_counts.observe(tap, "a-topic-of-its-own")
        data = reader.get_metrics_data()
    finally:
        metrics._internal._METER_PROVIDER = before  # type: ignore[attr-defined]
        provider.shutdown()
    found = {m.name: m.data for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}  # type: ignore[union-attr]
    points = {
        p.attributes["tta.outcome"]: p.value  # type: ignore[union-attr, index]
        for p in found["tta.tap.messages"].data_points
        if p.attributes["messaging.destination.name"] == "a-topic-of-its-own"  # type: ignore[union-attr, index]
    }
    assert points["sent"] == 1 and points["dropped"] == points["left_out"] == 0
    assert "tta.tap.queue.bytes" in found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_is_told_to_open_its_own(caplog: pytest.LogCaptureFixture) -> None:
    tap, _ = opened()
    tap._process = -1
    assert tap.record(X, Y) is None and tap.counts()["left_out"] == 1
    assert "open it in each worker" in caplog.text
    tap.close()


SERVER = """
import sys
class Lacking:
    def find_spec(self, name, path=None, target=None):
        allowed = ("numpy", "PIL", "yaml", "pydantic", "pydantic_core", "pydantic_settings", "cloudevents")
        own = ("tta_agent", "tta_policies", "tta_adapters", "typing_extensions", "annotated_types", "dotenv")
        needed = ("typing_inspection", "deprecation", "packaging", "google")
        known = (*sys.stdlib_module_names, *allowed, *own, *needed)
        if name.split(".")[0] not in known and not name.startswith("_"):
            raise ImportError(f"no {name}")
sys.meta_path.insert(0, Lacking())
import numpy as np
from tta_agent import tap
log = tap.connect()
for i in range(20):
    log.record(np.full((1, 4), i), np.eye(1, 3), id=str(i), version=0)
print(log.counts()["dropped"])
"""  # no close: the end of the process flushes


def test_a_process_with_the_packages_of_the_guide_alone_posts_to_the_receiver(tmp_path: Path) -> None:
    consumer = HttpStreamConsumer(["inference"], "inference.labels")
    environ = {**worlds.clean_environ(), "TTA_STREAM__SOURCE": "http", "TTA_RECEIVER__URL": consumer.url}
    environ |= {"TTA_STORE__PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SERVER], env=environ, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
    assert [int(raw.key or b"") for raw in consumer.poll(5.0)] == list(range(20))
    consumer.close()


def test_a_process_without_torch_logs_to_the_stream_of_its_environment(tmp_path: Path) -> None:
    environ = {**worlds.clean_environ(), "TTA_STORE__PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SERVER], env=environ, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
    consumer = EmbeddedStreamConsumer(tmp_path / "log.db", ["inference"], "test", start="earliest")
    raws = [*consumer.poll(1.0), *consumer.poll(0.0)]
    consumer.close()
    assert sorted(int(raw.key or b"") for raw in raws) == list(range(20))


@pytest.mark.kafka
def test_the_end_of_a_process_flushes_to_a_real_broker(kafka: str, tmp_path: Path) -> None:
    topic = f"tap-{tmp_path.name}"
    environ = {**worlds.clean_environ(), "TTA_STREAM__BOOTSTRAP_SERVERS": kafka, "TTA_STREAM__TOPIC": topic}
    environ |= {"TTA_STORE__PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    code = SERVER[SERVER.index("import numpy") :]  # with Kafka's client
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False
    )
    assert done.stdout == "0\n", done.stderr
    consumer, raws = KafkaStreamConsumer(kafka, [topic], "test", start="earliest"), []
    serving.eventually(lambda: raws.extend(consumer.poll(1.0)) or len(raws) >= 20, 30.0)
    consumer.close()
    assert sorted(int(raw.key or b"") for raw in raws) == list(range(20))


AWAY = """
import time
import numpy as np
from tta_agent import tap
log = tap.connect(close_timeout_s=1.0)
began = time.monotonic()
log.record(np.zeros((1, 4)))
took = time.monotonic() - began
while not log.counts()["errors"]:
    time.sleep(0.01)
print(took < 5)
"""


def test_a_stream_that_is_away_fails_nothing_at_start(tmp_path: Path) -> None:
    environ = {
        **worlds.clean_environ(),
        "TTA_STREAM__BOOTSTRAP_SERVERS": "127.0.0.1:9",
        "PYTHONPATH": str(ROOT),
    }
    environ |= {"TTA_STREAM__CONNECT_TIMEOUT_S": "0.5", "TTA_STORE__PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(AWAY)],
        env=environ, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout == "True\n", done.stderr


def test_a_misspelt_setting_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTA_STREAM__TOPICS", "x")
    with pytest.raises(ConfigError, match="TTA_STREAM__TOPIC"):
        taps.connect()
