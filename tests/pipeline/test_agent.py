"""The real agent in its threads: certified swap, crash and resume, bad records, a roll-back by command.

The same loop runs over the embedded log and, marked `kafka`, over a real broker.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests import worlds
from tests.parts.otlp import OtlpReceiver
from tta_agent.assembly import build
from tta_agent.models.ort_sessions import HotSwapSession, open_session, run
from tta_agent.registry.registry import ModelRegistry
from tta_agent.serving.drivers.session import SessionDriver
from tta_agent.settings import env
from tta_agent.stream import factory, topic_names
from tta_agent.stream.codecs import oip
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.telemetry.facade import Telemetry

PATIENCE_S = 90.0


class World:
    """A stream, a server in this process, users who send shifted images, and labels that come at once."""

    def __init__(self, path: Path, monkeypatch, brokers: str | None = None, **environ: str) -> None:
        name = f"loop-{path.name}-{time.time_ns()}"
        given = {
            **worlds.FASHION,
            "TTA_STORE__PATH": str(path / "store"),
            "TTA_STORE__CHECKPOINT_EVERY": "4",
            "TTA_STREAM__TOPIC": name,
            "TTA_STREAM__LABELS_TOPIC": f"{name}.labels",
            "TTA_STREAM__GROUP": name,
            "TTA_STREAM__START": "earliest",
            "TTA_SCHEDULE__CANDIDATE_EVERY": "4",
            **({"TTA_STREAM__BOOTSTRAP_SERVERS": brokers} if brokers else {}),
            **environ,
        }
        for key, value in given.items():
            monkeypatch.setenv(key, value)
        self.settings = env.load()
        self.source = build.load_source(self.settings)
        self.registry: ModelRegistry = build.open_registry(self.settings, self.source)
        session = open_session(self.registry.get(0).path)
        self.pair = HotSwapSession(0, session)
        self.producer = factory.open_producer(self.settings, [])
        self.sent = 0
        self.right: list[tuple[int, bool]] = []

    def agent(self, swapper=None, telemetry=None):
        stream = self.settings.stream
        source = factory.open_source(self.settings, [stream.topic, stream.labels_topic])
        swapper = swapper or SessionDriver(self.pair, open_session)
        return build.assemble(
            self.settings, self.source, source, self.producer, swapper, telemetry or Telemetry.off()
        )

    def send(self, n: int, label_rate: float = 1.0) -> None:
        """n shifted images, answered by what is live, each with its label."""
        _, shifted, labels = worlds.images(6000)
        topic, labels_topic = self.settings.stream.topic, self.settings.stream.labels_topic
        for i in range(self.sent, self.sent + n):
            row, name, now_s = i % 6000, f"{topic}-{i}", time.time()
            x = shifted[row : row + 1]
            number, session = self.pair.current()
            answer = run(session, x)
            self.right.append((number, int(answer.argmax()) == int(labels[row])))
            event = CloudEvents().encode_inference(
                name,
                x,
                answer,
                number,
                source="t",
                model="m",
                time_s=now_s,
                traceparent=f"00-{i + 1:032x}-{1:016x}-01",
            )
            self.producer.send(topic, *event)
            if np.random.default_rng(i).random() < label_rate:
                self.producer.send(labels_topic, *CloudEvents().encode_label(name, int(labels[row]), now_s))
        self.sent += n
        self.producer.flush()

    def events(self, agent, name: str) -> list[dict]:
        return [event for event in agent.journal.read_events() if event["event"] == name]


class Running:
    """The agent in a thread; leaving the block stops it and raises what it raised."""

    def __init__(self, agent) -> None:
        self.agent, self.error = agent, None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.agent.run()
        except BaseException as error:
            self.error = error

    def __enter__(self):
        self._thread.start()
        return self.agent

    def __exit__(self, *_: object) -> None:
        self.agent.stop()
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self.error:
            raise self.error


def until(condition, feed=lambda: time.sleep(0.05)) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        feed()


def loop_to_a_certified_swap(world: World) -> None:
    agent = world.agent()
    with Running(agent):
        until(lambda: world.pair.current()[0] > 0, lambda: (world.send(64), time.sleep(0.2)))
        world.send(300)
    swap = world.events(agent, "swap")[0]
    assert world.registry.get(swap["version"]).proof == "certified"
    assert world.registry.aliases()["serving"] == world.pair.current()[0]
    before = [right for number, right in world.right if number == 0]
    after = [right for number, right in world.right if number != 0]
    assert np.mean(after) > np.mean(before) + 0.2
    manifest = world.registry.manifest(swap["version"])
    assert manifest["records"]["kept"] > 0
    assert any(world.settings.stream.topic in position for position in manifest["positions"])


def test_the_loop_on_the_embedded_log(tmp_path, monkeypatch):
    loop_to_a_certified_swap(World(tmp_path, monkeypatch))


@pytest.mark.kafka
def test_the_loop_on_a_real_broker(tmp_path, monkeypatch, kafka):
    world = World(tmp_path, monkeypatch, brokers=kafka)
    loop_to_a_certified_swap(world)
    world.producer.close()  # or it would look for the broker after the tests


def test_one_trace_leads_from_the_requests_to_the_swap(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch)
    with OtlpReceiver() as collector:
        for name in [name for name in os.environ if name.startswith("OTEL_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        telemetry = Telemetry.from_environment("test")
        agent = world.agent(telemetry=telemetry)
        with Running(agent):
            until(lambda: world.pair.current()[0] > 0, lambda: (world.send(64), time.sleep(0.2)))
        telemetry.shutdown()
        assert collector.wait(lambda c: any(s.name == "tta.swap" for s in c.spans))
        spans = list(collector.spans)
        swap = next(s for s in spans if s.name == "tta.swap")
        trace = [s for s in spans if s.trace_id == swap.trace_id]
        names = {s.name for s in trace}
        assert names >= {
            "tta.score",
            "tta.select",
            "tta.adapt",
            "tta.export",
            "tta.gate",
            "tta.swap",
            "tta.verify",
        }
        process = next(s for s in trace if s.name.startswith("process "))
        assert {link.trace_id.hex() for link in process.links} <= {f"{i + 1:032x}" for i in range(world.sent)}
        assert len(process.links) == 64
        assert sum(value for attributes, value in collector.points("tta.swaps")) == 1
        kept = {a["tta.outcome"]: v for a, v in collector.points("tta.samples")}
        assert kept["kept"] == agent.learner.adaptation.totals["kept"]
        assert kept["held_out"] == agent.learner.routed_total["held_out"]


def test_shadow_tests_candidates_and_swaps_nothing(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch, TTA_MODE="shadow")
    agent = world.agent()
    with Running(agent):
        until(lambda: world.events(agent, "verdict"), lambda: (world.send(64), time.sleep(0.2)))
    assert world.pair.current()[0] == 0
    assert world.registry.aliases()["serving"] == 0
    assert "not swapped" in world.events(agent, "verdict")[-1]["outcome"]


def test_a_person_approves_over_http(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch, TTA_MODE="approve", TTA_HTTP__PORT="0")
    agent = world.agent()
    interface = build.open_interface(world.settings, agent.rollout.served.registry, agent.journal.now)
    try:
        with Running(agent), httpx.Client(base_url=interface.url) as http:
            until(
                lambda: http.get("/v1/status").json().get("awaiting"),
                lambda: (world.send(64), time.sleep(0.2)),
            )
            assert world.pair.current()[0] == 0
            number = http.get("/v1/status").json()["awaiting"]
            assert http.post("/v1/approve", json={"version": number, "by": "mia"}).status_code == 202
            until(
                lambda: world.registry.aliases()["serving"] == number
            )  # the server first, then the registry
            assert world.pair.current()[0] == number
            assert http.get("/readyz").json() == {"ready": True}
            labels = http.get("/v1/labels").json()
            explained = http.get("/v1/versions/serving").json()
    finally:
        interface.close()
    assert world.registry.verdict(number)["by"] == "mia"
    assert "mia" in str(explained)
    assert labels


@pytest.mark.slow
def test_a_restart_resumes_weights_trial_and_offsets(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch, TTA_GATE__ALPHA="1e-300")
    first = world.agent()
    with Running(first):
        until(
            lambda: first.rollout.queue.running and first.rollout.queue.running.pairs.labels > 5,
            lambda: (world.send(64), time.sleep(0.2)),
        )
    second = world.agent()
    assert second.resume()
    assert second.learner.adaptation.rounds == first.learner.adaptation.rounds > 0
    assert second.rollout.queue.running.version == first.rollout.queue.running.version
    assert second.rollout.queue.running.pairs.labels == first.rollout.queue.running.pairs.labels
    state = first.learner.adaptation.adapter.state_dict()["model"]
    again = second.learner.adaptation.adapter.state_dict()["model"]
    assert all(np.array_equal(state[name], again[name]) for name in state)
    kept = dict(second.learner.adaptation.totals)
    with Running(second):
        world.send(200)
        until(lambda: sum(second.learner.adaptation.totals.values()) > sum(kept.values()) + 64)
        time.sleep(3.0)  # the last short batch
    learnt = (
        sum(second.learner.adaptation.totals.values())
        + second.learner.routed_total["held_out"]
        + first.learner.routed_total["held_out"]
    )
    assert learnt == world.sent  # nothing lost, nothing twice


@pytest.mark.slow
def test_a_swap_after_the_last_checkpoint_is_no_rollback(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch)
    first = world.agent()
    with Running(first):
        until(lambda: world.pair.current()[0] > 0, lambda: (world.send(64), time.sleep(0.2)))
    live = world.registry.get(world.pair.current()[0])
    newer = world.registry.add(live.path.read_bytes(), live, {})
    world.registry.conclude(newer.number, "certified", "certified", [])
    world.registry.serve(newer.number)
    second = world.agent()
    assert second.resume()
    assert second.learner.adaptation.rounds == first.learner.adaptation.rounds
    assert second.rollout.queue.running is None
    second.close()


def test_a_rollback_while_the_agent_was_away_is_respected(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch)
    first = world.agent()
    with Running(first):
        until(lambda: world.pair.current()[0] > 0, lambda: (world.send(64), time.sleep(0.2)))
    world.registry.add(b"left over by a crash", world.registry.get(0), {})
    world.registry.serve(0, by="mia", reason="complaints")
    world.pair.switch(0)
    second = world.agent()
    assert second.resume()
    assert (
        second.learner.adaptation.rounds,
        second.rollout.queue.running,
        second.rollout.served.version.number,
    ) == (0, None, 0)
    assert any("abandoned" in (row["outcome"] or "") for row in world.registry.rows())
    assert world.registry.undecided() == []
    second.close()


def test_a_rollback_by_somebody_else_resets_and_cools_down(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch, TTA_SCHEDULE__COOLDOWN_S="3600")
    agent = world.agent()
    with Running(agent):
        until(lambda: world.pair.current()[0] > 0, lambda: (world.send(64), time.sleep(0.2)))
        world.registry.serve(0)
        until(lambda: world.events(agent, "reset"))
        candidates = len(world.events(agent, "candidate"))
        rounds = agent.learner.adaptation.rounds
        until(
            lambda: agent.learner.adaptation.rounds > rounds + 10, lambda: (world.send(64), time.sleep(0.1))
        )
    assert agent.rollout.served.version.number == 0
    assert agent.rollout.queue.running is None
    assert len(world.events(agent, "candidate")) == candidates


def malformed() -> dict[str, tuple[bytes | None, bytes | None, tuple]]:
    """Twenty-odd ways to be unreadable, by name."""
    x = np.zeros((1, 1, 28, 28), np.float32)
    logits = np.zeros((1, 10), np.float32)

    def event(x=x, logits=logits, id="bad", **more):
        return CloudEvents().encode_inference(
            id, x, logits, 0, source="t", model="m", time_s=more.pop("time_s", time.time()), **more
        )

    def headers(message, **change):
        kept = [(n, v) for n, v in message[2] if n not in change]
        return message[0], message[1], (*kept, *((n, v) for n, v in change.items() if v is not None))

    def label(body: bytes):
        return headers((b"bad", body, CloudEvents().encode_label("bad", 1, 0.0)[2]))

    good, nan = event(), np.full_like(x, np.nan)
    json_body, _ = oip.encode(oip.Body({"input": x}, {}, "bad", None, None), binary=False)
    return {
        "no value": (b"k", None, good[2]),
        "empty value": (b"k", b"", good[2]),
        "no headers, no format": (b"k", b"\x01" + (good[1] or b""), ()),
        "not json": (b"k", b"\x00\xff garbage", good[2]),
        "cut off": (b"k", good[1][:200], good[2]),
        "too long": (b"k", good[1] + b"12", good[2]),
        "no id": headers(good, ce_id=None),
        "no source": headers(good, ce_source=None),
        "old spec version": headers(good, ce_specversion=b"0.1"),
        "another type": headers(good, ce_type=b"org.example.other"),
        "bad time": headers(good, ce_time=b"yesterday"),
        "bad model version": headers(good, ce_modelversion=b"latest"),
        "bad content type": headers(good, **{"content-type": b"text/html"}),
        "head length lies": headers(good, ce_inferenceheadercontentlength=b"7"),
        "head length is a word": headers(good, ce_inferenceheadercontentlength=b"seven"),
        "wrong shape": event(np.zeros((1, 1, 28, 27), np.float32)),
        "wrong rank": event(np.zeros((1, 784), np.float32)),
        "no sample": event(np.zeros((0, 1, 28, 28), np.float32), np.zeros((0, 10), np.float32)),
        "nan input": event(nan),
        "infinite output": event(logits=np.full((1, 10), np.inf, np.float32)),
        "other classes": event(logits=np.zeros((1, 11), np.float32)),
        "two answers": event(logits=np.zeros((2, 10), np.float32)),
        "string tensor": (b"k", json_body.replace(b"FP32", b"BYTES"), good[2]),
        "label is a word": label(b'{"id": "bad", "label": "cat"}'),
        "label out of range": label(b'{"id": "bad", "label": 10}'),
        "label without id": label(b'{"label": 1}'),
        "label is no json": label(b"{"),
    }


def test_malformed_records_are_counted_explained_and_kept_and_the_loop_goes_on(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch)
    bad = malformed()
    assert len(bad) >= 20
    agent = world.agent()
    with Running(agent):
        world.send(130, label_rate=0.2)
        for message in bad.values():
            world.producer.send(world.settings.stream.topic, *message)
        world.send(130, label_rate=0.2)
        until(lambda: agent.decoder.refused.total() == len(bad) and agent.learner.adaptation.rounds >= 3)
    assert len(agent.decoder.refused) >= 15
    letters = dead_letters(world)
    assert len(letters) == len(bad)
    assert {(raw.key, raw.value or None) for raw in letters} == {(k, v or None) for k, v, _ in bad.values()}
    for raw in letters:
        told = dict(raw.headers)
        assert told["tta_dlq_topic"].decode() == world.settings.stream.topic
        assert told["tta_dlq_reason"].decode() in agent.decoder.refused
        assert len(told["tta_dlq_exception"]) > 10


def dead_letters(world: World) -> list:
    topic = topic_names.dead_letters(world.settings)[""]
    source = factory.open_source(world.settings, [topic], group="reader-of-dead-letters")
    found: list = []
    until(lambda: (not (part := source.poll(0.5)) and found) or found.extend(part))
    source.close()
    return found
