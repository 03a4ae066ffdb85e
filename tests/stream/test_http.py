"""Records over HTTP: what loggers post is read by the agent's codecs, bounded, counted, and refused in time."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.stream.test_variants import VARIANTS, raws
from tta_agent.core.errors import ConfigError, MessageTooLarge, StreamError
from tta_agent.core.stream_protocols import LossyConsumer
from tta_agent.core.types import Label, RawRecord, Record
from tta_agent.settings import env
from tta_agent.stream import factory
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.stream.decoder import Decoder
from tta_agent.stream.http.consumer import HttpStreamConsumer
from tta_agent.stream.http.messages import from_http, to_http
from tta_agent.stream.http.producer import HttpProducer
from tta_agent.stream.recorder import _await_log

TOPICS = ["inference", "inference.labels"]
X, Y = np.random.default_rng(0).random((2, 1, 4, 4), np.float32), np.eye(2, 3, dtype=np.float32)


@pytest.fixture
def consumer() -> Iterator[HttpStreamConsumer]:
    opened = opened_with()
    yield opened
    opened.close()


def opened_with(**options: Any) -> HttpStreamConsumer:
    return HttpStreamConsumer(TOPICS, TOPICS[1], **options)


def taken(consumer: HttpStreamConsumer, count: int) -> list[RawRecord]:
    found: list[RawRecord] = []
    deadline_s = time.monotonic() + 20
    while len(found) < count and time.monotonic() < deadline_s:
        found += consumer.poll(0.2)
    assert len(found) == count
    return found


def post(consumer: HttpStreamConsumer, body: bytes = b"x", path: str = "/", **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(consumer.url + path, content=body, headers=names, trust_env=False)


def decoded(found: list[RawRecord]) -> list[Record | Label]:
    decoder = Decoder(factory.open_codec(env.load()), None, None)
    items = decoder.read(found) + decoder.flush()
    assert not decoder.refused, decoder.first
    return items


def test_what_a_tap_posts_comes_as_it_would_from_a_log(consumer: HttpStreamConsumer) -> None:
    producer = HttpProducer(consumer.url, TOPICS[1])
    codec, done = CloudEvents(), list[Exception | None]()
    message = codec.encode_inference("é 1%", X, Y, 3, source="s", model="m", time_s=5.0, entity="Öl")
    producer.send("inference", *message, on_done=done.append)
    producer.send("inference.labels", *codec.encode_label("é 1%", [0, 2], 6.0))
    producer.send("inference.labels", None, b'{"id": "plain", "label": 1}')
    producer.flush()
    producer.close()
    record, label, plain = taken(consumer, 3)
    assert plain.topic == TOPICS[1]
    assert (record.key, record.value, dict(record.headers)) == (message[0], message[1], dict(message[2]))
    assert (record.topic, label.topic, record.offset, label.offset, done) == (*TOPICS, 0, 0, [None])
    first, _, truth, _ = decoded([record, label])
    assert isinstance(first, Record) and isinstance(truth, Label)
    assert (first.key, first.version, truth.id) == ("Öl", 3, "é 1%#0")


def sent_by_kserve(raw: RawRecord) -> dict[str, str]:
    """The headers of an event as KServe's agent posts it."""
    return {name.replace("_", "-"): value.decode() for name, value in raw.headers}


@pytest.mark.parametrize(
    "name", ["kserve_request_and_response", "kserve_response_first", "kserve_binary", "kserve_v1"]
)
def test_what_kserves_logger_posts_is_joined(consumer: HttpStreamConsumer, name: str) -> None:
    variant = VARIANTS[name]
    for raw in raws(variant):
        answer = httpx.post(
            consumer.url, content=raw.value or b"", headers=sent_by_kserve(raw), trust_env=False
        )
        assert (answer.status_code, answer.content) == (202, b"")
    found = decoded(taken(consumer, 2))
    assert found and all(isinstance(one, Record) and one.served is not None for one in found)


@pytest.mark.parametrize(
    "name", ["structured_1.0", "structured_0.3", "seldon_json", "oip_json", "oip_binary", "png", "npy"]
)
def test_what_others_post_is_read(consumer: HttpStreamConsumer, name: str) -> None:
    sent = raws(VARIANTS[name])
    for raw in sent:
        headers = {one: value.decode("latin-1") for one, value in raw.headers} | {"x-request-id": "r-1"}
        assert httpx.post(consumer.url, content=raw.value or b"", headers=headers, trust_env=False).is_success
    assert decoded(taken(consumer, len(sent)))


def test_labels_come_by_path_or_by_type(consumer: HttpStreamConsumer) -> None:
    label = json.dumps({"id": "a", "label": 2, "ts": 7.0}).encode()
    assert post(consumer, label, "/labels").status_code == 202
    _, value, headers = CloudEvents().encode_label("b", 1, 7.0)
    assert post(consumer, value or b"", "/anything", **to_http(headers)).status_code == 202
    found = taken(consumer, 2)
    assert [raw.topic for raw in found] == [TOPICS[1]] * 2
    assert [one.id for one in decoded(found)] == ["a", "b"]


def test_positions_count_and_go_on_after_a_restart(
    consumer: HttpStreamConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        post(consumer)
    assert consumer.lag() == 3 and consumer.positions() == {("inference", 0): 0, ("inference.labels", 0): 0}
    slept: list[float] = []
    with monkeypatch.context() as patch:
        patch.setattr("tta_agent.stream.http.consumer.time.sleep", slept.append)
        consumer.pause()
        assert not consumer.poll(0.05) and slept == [0.05], "it does not spin while records wait"
        consumer.resume()
    consumer.seek({("inference", 0): 40, ("other", 0): 1})
    assert [raw.offset for raw in taken(consumer, 3)] == [40, 41, 42]
    assert consumer.positions()["inference", 0] == 43 and consumer.assignment() == [(t, 0) for t in TOPICS]
    assert consumer.lag() == 0 and consumer.topic_ids() == {}


def test_a_full_queue_answers_503_and_counts_and_reading_makes_room() -> None:
    consumer = opened_with(queue_bytes=3 * 2100)
    assert isinstance(consumer, LossyConsumer)
    lost: list[tuple[str, int]] = []
    consumer.on_lost = lambda kind, count: lost.append((kind, count))
    answers = [post(consumer, b"y" * 1000) for _ in range(10)]
    taken_in = [answer.status_code for answer in answers].count(202)
    assert taken_in == 3 and answers[-1].status_code == 503 and answers[-1].headers["retry-after"] == "1"
    assert httpx.get(consumer.url, trust_env=False).json() == {
        "received": 3, "dropped": 7, "queued": 3, "queued_bytes": 3 * 2024,
    }  # fmt: skip
    assert len(taken(consumer, 3)) == 3 and lost == [("receiver_full", 7)]
    assert post(consumer, b"y" * 1000).status_code == 202
    consumer.close()


def test_bodies_that_are_arriving_count_too_and_those_that_stop_are_freed() -> None:
    consumer = opened_with(queue_bytes=10_000)
    host, port = consumer.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9000\r\n\r\n" + b"z" * 8000)
        deadline_s = time.monotonic() + 10
        while consumer._queue.held_bytes < 8000 and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert post(consumer, b"y" * 4000).status_code == 503
    while consumer._queue.held_bytes and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert post(consumer, b"y" * 4000).status_code == 202
    consumer.close()


def test_what_is_refused() -> None:
    consumer = opened_with(token="t0k", body_bytes=100)
    assert post(consumer).status_code == 401
    assert post(consumer, authorization="Bearer other").status_code == 403
    good = {"authorization": "Bearer t0k"}
    assert post(consumer, **good).status_code == 202
    assert post(consumer, b"x" * 101, **good).status_code == 413
    assert post(consumer, b"", **good).status_code == 400
    assert post(consumer, content_encoding="gzip", **good).status_code == 415
    assert post(consumer, host="evil.example", **good).status_code == 403
    assert post(consumer, origin="http://localhost", **good).status_code == 403
    assert httpx.put(consumer.url, trust_env=False).status_code == 405
    assert consumer.counts() == {"received": 1, "dropped": 0}
    with_token = HttpProducer(consumer.url, TOPICS[1], "t0k")
    with_token.send("inference", b"k", b"x")
    with pytest.raises(MessageTooLarge, match="TTA_RECEIVER__BODY_BYTES"):
        with_token.send("inference", b"k", b"x" * 101)
    with pytest.raises(StreamError, match="answers 400"):
        with_token.send("inference", b"k", None)
    without = HttpProducer(consumer.url, TOPICS[1])
    with pytest.raises(StreamError, match=r"401.*TTA_RECEIVER__TOKEN"):
        without.send("inference", b"k", b"x")
    consumer.close()
    with pytest.raises(StreamError, match="check that the agent runs"):
        with_token.send("inference", b"k", b"x")
    for producer in (with_token, without):
        producer.close()


def test_a_receiver_that_was_started_anew_is_posted_to_at_once() -> None:
    first = opened_with()
    port = int(first.url.rpartition(":")[2])
    producer = HttpProducer(first.url, TOPICS[1])
    producer.send("inference", b"a", b"1")
    assert len(taken(first, 1)) == 1
    first.close()
    second = opened_with(port=port)
    producer.send("inference", b"b", b"2")  # over the connection that the first one has closed
    assert [raw.value for raw in taken(second, 1)] == [b"2"]
    producer.close()
    second.close()


@pytest.mark.parametrize("url", ["127.0.0.1:8092", "kafka://host", "http://"])
def test_an_address_that_is_none_is_said(url: str) -> None:
    with pytest.raises(ConfigError, match="TTA_RECEIVER__URL"):
        HttpProducer(url, TOPICS[1])


def test_many_at_once_come_whole_and_once(consumer: HttpStreamConsumer) -> None:
    def send(first: int) -> None:
        producer = HttpProducer(consumer.url, TOPICS[1])
        for i in range(first, first + 50):
            producer.send("inference", str(i).encode(), b"%d" % i)
        producer.close()

    threads = [threading.Thread(target=send, args=(50 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    found = taken(consumer, 200)
    for thread in threads:
        thread.join()
    assert sorted(int(raw.value or b"") for raw in found) == list(range(200))
    assert [raw.offset for raw in found] == list(range(200))


def test_headers_survive_the_way_and_others_stay_outside() -> None:
    headers = (
        ("ce_id", 'ü%25 "x"'.encode()),
        ("traceparent", b"00-a"),
        ("content-type", b"application/json"),
    )
    there = to_http(headers)
    assert all(value.isascii() for value in there.values())
    assert from_http([*there.items(), ("authorization", "Bearer x"), ("cookie", "y")]) == headers


def test_what_waits_at_the_end_is_said_to_be_lost(
    consumer: HttpStreamConsumer, caplog: pytest.LogCaptureFixture
) -> None:
    post(consumer)
    consumer.close()
    assert "1 records that were received are lost" in caplog.text


def test_the_settings_open_both_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("TTA_STREAM__SOURCE", "http")
    monkeypatch.setenv("TTA_STORE__PATH", str(tmp_path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("TTA_RECEIVER__PORT", str(free.getsockname()[1]))
    settings = env.load()
    source, producer = factory.open_source(settings, TOPICS), factory.open_producer(settings, TOPICS)
    with pytest.raises(ConfigError, match="TTA_RECEIVER__PORT"):
        factory.open_source(settings, TOPICS)
    producer.send("inference", b"k", b"v")
    assert [raw.value for raw in source.poll(5.0)] == [b"v"]
    letters = factory.open_log(settings, ["letters"])
    letters.send("letters", None, b"l")
    for one in (letters, producer, source):
        one.close()
    assert (tmp_path / "log.db").exists(), "what the agent itself writes is in the embedded log"
    with pytest.raises(ConfigError, match="keeps no records"):
        _await_log(settings, 0.0)


def test_other_machines_are_let_in_by_setting_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    consumer = opened_with(host="0.0.0.0")
    assert "whoever reaches it may teach the model" in caplog.text
    consumer.close()
    caplog.clear()
    opened_with(host="0.0.0.0", token="t").close()
    assert "may teach" not in caplog.text
