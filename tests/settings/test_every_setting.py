"""Every setting reaches the object that it is for.

A row says which variable, a value that is not the default, and how it shows in what is built. Each setting has one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import certifi
import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from starlette.testclient import TestClient

from tests.settings.built import HERE, Built, Detector, Driver, Format, Learner, Net, attributes, module
from tta_adapters.norm import Norm
from tta_agent.adaptation.served_check import ServedCheck
from tta_agent.adaptation.sliding_window import Window
from tta_agent.assembly import copy, server
from tta_agent.control.webhooks import Hooks
from tta_agent.core.errors import ConfigError, GraphError, StreamError
from tta_agent.core.types import Record
from tta_agent.evaluation import calibration
from tta_agent.evaluation.anchor_set import AnchorSet
from tta_agent.evaluation.label_guard import LabelGuard
from tta_agent.evaluation.recent import RecentRecords
from tta_agent.labels.join import LabelJoiner
from tta_agent.labels.requests import LabelRequester
from tta_agent.models.device import Accelerator
from tta_agent.models.onnx_export import GraphTemplate
from tta_agent.pipeline.cadence import Cadence
from tta_agent.pipeline.duty_cycle import DutyCycle
from tta_agent.pipeline.stages import ThreadedStage
from tta_agent.registry.names import VersionNames
from tta_agent.registry.registry import ModelRegistry
from tta_agent.rollout.approval import Approval
from tta_agent.rollout.controller import RolloutController
from tta_agent.rollout.factory import EvaluationSettings
from tta_agent.rollout.limits import RolloutLimits
from tta_agent.rollout.monitor import ServingMonitor
from tta_agent.rollout.promoter import PromotionRules
from tta_agent.rollout.regimes import RegimeFollower
from tta_agent.rollout.spending import AlphaSpending
from tta_agent.serving.deployment import ServedModel
from tta_agent.serving.server.batching import Batching
from tta_agent.settings import env
from tta_agent.stream import factory
from tta_agent.stream.batcher import Batcher
from tta_agent.stream.input_check import InputCheck
from tta_agent.stream.response_join import ResponseJoiner
from tta_agent.stream.results import ResultWriter
from tta_agent.stream.router import RecordRouter
from tta_agent.stream.sampling import WindowSample
from tta_policies.gates.collapse import Collapse
from tta_policies.schedule.periodic_reset import PeriodicReset
from tta_policies.select.entropy import Entropy
from tta_policies.select.plausible import Plausible

Check = Callable[[Built], bool]
LONG_AGO = 1000.0
AUTHORITY = certifi.where()
KAFKA = {"TTA_STREAM__BOOTSTRAP_SERVERS": "127.0.0.1:9"}
RECEIVES = {"TTA_STREAM__SOURCE": "http"}
AUTO = {"TTA_MODE": "auto", "TTA_SWAP__DRIVER": f"{HERE}:Driver"}
FASHION = {"TTA_MODEL__FACTORY": "tests.worlds:tiny_batch_net", "TTA_MODEL__INPUT_SHAPE": "[1,8,8]"}


@dataclass
class Row:
    """One setting.

    Attributes:
        value: not the default; `{folder}` is a folder that holds what `files` puts there.
        shows: whether it has arrived.
        also: further variables that it needs.
    """

    name: str
    value: str
    shows: Check
    also: Mapping[str, str] = field(default_factory=dict)

    @property
    def variable(self) -> str:
        """Of the environment."""
        return "TTA_" + self.name.replace(".", "__").upper()


def held(kind: type, value: Any) -> Check:
    """The one object of that class in the agent has an attribute of that value, and has not by default."""

    def shows(built: Built) -> bool:
        now = {name for name, given in attributes(built.one(kind)).items() if same(given, value)}
        built.close()
        default = Built(built.folder / "default", built.master, built.patch)
        built.patch.delenv(built.variable)
        before = attributes(default.one(kind))
        default.close()
        return any(not same(before[name], value) for name in now)

    return shows


def same(one: Any, other: Any) -> bool:
    """Equal and of one type, so that False is not 0."""
    return type(one) is type(other) and bool(one == other)


def has(kind: type) -> Check:
    """The agent holds an object of that class."""
    return lambda built: kind.__name__ in built.kinds()


def lacks(kind: type) -> Check:
    """The agent holds an object of that class by default, and now none."""

    def shows(built: Built) -> bool:
        now = built.kinds()
        built.close()
        default = Built(built.folder / "default", built.master, built.patch)
        built.patch.delenv(built.variable)
        before = default.kinds()
        default.close()
        return kind.__name__ in before - now

    return shows


def given(kind: type, name: str, value: Any) -> Check:
    """The one object of that class has a public attribute of that value."""
    return lambda built: bool(getattr(built.one(kind), name) == value)


def of_source(shows: Callable[[Any], bool]) -> Check:
    """In the deployed model."""
    return lambda built: bool(shows(built.source))


def refused(text: str, call: Callable[[Built], Any]) -> Check:
    """A message that names the value."""

    def shows(built: Built) -> bool:
        with pytest.raises(ConfigError, match=text):
            call(built)
        return True

    return shows


def of_limits(shows: Callable[[RolloutLimits], bool]) -> Check:
    """In what says when a swap may happen."""
    return lambda built: shows(built.one(RolloutLimits))


def of_consumer(name: str, value: Any) -> Check:
    """In what Kafka's consumer is built with: a position, or the name of an argument."""

    def shows(built: Built) -> bool:
        built.patch.setattr("tta_agent.stream.kafka.opening.ensure_topics", lambda *_, **__: None)
        built.fake(module("tta_agent.stream.kafka.opening"), "KafkaStreamConsumer")
        told = built.raised(lambda: factory.open_source(built.settings, ["t"]))
        options = {**told.named, **told.named["client_options"]}
        return bool((told.given[int(name)] if name.isdigit() else options[name]) == value)

    return shows


def of_receiver(name: str, value: Any) -> Check:
    """In what the receiver is built with."""

    def shows(built: Built) -> bool:
        built.fake(module("tta_agent.stream.http.consumer"), "HttpStreamConsumer")
        told = built.raised(lambda: factory.open_source(built.settings, ["t"]))
        return bool(told.named[name] == value)

    return shows


def of_poster(built: Built) -> bool:
    """Where the producer of the stream posts to."""
    producer = factory.open_producer(built.settings, [])
    with pytest.raises(StreamError, match=r"receiver at http://127\.0\.0\.1:9 "):
        producer.send("t", b"k", b"v")
    producer.close()
    return True


def of_http_source(built: Built) -> bool:
    """The agent reads what is posted to it."""
    consumer = built.agent.consumer
    httpx.post(consumer.url, content=b"no record", trust_env=False)  # type: ignore[attr-defined]
    return built.agent.read(5.0) == 1


def of_topics(built: Built) -> list[str]:
    """Topics that the agent reads, once for each of their partitions."""
    built.agent.read(0.0)
    return [topic for topic, _ in built.agent.consumer.assignment()]


def of_server(shows: Callable[[Any, Any], bool]) -> Check:
    """In the embedded server: what its application is made of."""

    def found(built: Built) -> bool:
        built.registry()
        built.fake(server, "make_app")
        told = built.raised(lambda: server.run(built.settings))
        if told.named["tap"]:
            told.named["tap"].close()
        return bool(shows(told.given, told.named))

    return found


def not_started(built: Built) -> str:
    """Why the embedded server does not start."""
    built.registry()
    with pytest.raises(GraphError) as told:
        server.run(built.settings)
    return str(told.value)


def of_address(position: int, value: Any) -> Check:
    """In what the embedded server listens on."""

    def shows(built: Built) -> bool:
        built.registry()
        built.fake(server, "serve")
        return bool(built.raised(lambda: server.run(built.settings)).given[position] == value)

    return shows


def of_interface(position: int, value: Any) -> Check:
    """In what the agent's own interface listens on."""

    def shows(built: Built) -> bool:
        built.fake(module("tta_agent.control.http.server"), "serve_in_thread")
        told = built.raised(built.interface)
        return bool(told.given[position] == value)

    return shows


def of_token(built: Built) -> bool:
    """Commands need it."""
    built.fake(module("tta_agent.control.http.server"), "serve_in_thread")
    told = built.raised(built.interface)
    http = TestClient(told.given[0], base_url="http://127.0.0.1")
    answers = [
        http.post("/v1/reset", json={}, headers={"authorization": f"Bearer {token}"})
        for token in ("s3", "other")
    ]
    return [answer.status_code for answer in answers] == [202, 403]


def of_hosts(built: Built) -> bool:
    """The interface may be asked under that name."""
    built.fake(module("tta_agent.control.http.server"), "serve_in_thread")
    told = built.raised(built.interface)
    names = ("here.example", "other.example")
    answers = [TestClient(told.given[0], base_url=f"http://{name}").get("/healthz") for name in names]
    return [answer.status_code for answer in answers] == [200, 403]


def of_session(threads: int) -> Check:
    """In ONNX Runtime's options for the version that serves."""
    return lambda built: (
        built.one(ServedModel).session.get_session_options().intra_op_num_threads == threads  # type: ignore[attr-defined]
    )


def of_nice(built: Built) -> bool:
    """In what the command asks of the system."""
    built.fake(module("tta_agent.core.process"), "yield_to_others")
    return built.raised(module("tta_agent.cli.main").run).given == (13,)


def of_memory(built: Built) -> bool:
    """In what the accelerator is built with: a CPU keeps no share."""
    built.fake(copy, "Accelerator")
    return 0.37 in built.raised(lambda: built.agent).given


def of_precision(built: Built) -> bool:
    with built.one(Accelerator).working():
        return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16


def of_age(built: Built) -> bool:
    """A record of 50 s ago is too old."""
    x = np.zeros((1, 8, 8), np.float32)
    old = Record("r", time.time() - 50, x, None, None, "k", None, "t", 0, 0)
    return built.one(RecordRouter).sort([old]).dropped["stale"] == 1


def of_dead_letters(built: Built) -> bool:
    """What cannot be read stands in the topic."""
    built.agent.read(0.0)
    producer = factory.open_producer(built.settings, [])
    producer.send(built.settings.stream.topic, b"k", b"no record")
    producer.close()
    assert built.agent.read(5.0) == 1
    return [raw.value for raw in built.messages("letters")] == [b"no record"]


def of_requests(built: Built) -> bool:
    """A request stands in the topic."""
    asked = Record("r", LONG_AGO, np.zeros((1, 8, 8), np.float32), None, None, "k", None, "t", 0, 0)
    built.one(LabelRequester).consider([asked], [0], [1], LONG_AGO)
    return [raw.key for raw in built.messages("requests")] == [b"r"]


def of_calibration(built: Built) -> bool:
    """Where the thresholds are looked for."""
    built.fake(calibration, "load")
    return built.raised(lambda: built.agent).given[0] == built.folder / "proofs"


def of_ledger(built: Built) -> bool:
    """Version 0 stands there, and not in the store."""
    assert isinstance(built.registry(), ModelRegistry)
    return any((built.folder / "elsewhere").rglob("*.onnx")) and not any(
        (built.folder / "store").rglob("*.onnx")
    )


def of_store(built: Built) -> bool:
    """The labels, the log and the ledger stand there."""
    assert built.agent
    folder = built.folder / "elsewhere"
    return {"labels.db", "log.db", "versions"} <= {path.name for path in folder.iterdir()}


def of_hook(name: str, url: str) -> Check:
    """The worker that asks or tells has it, and no other one."""

    def shows(built: Built) -> bool:
        workers = {
            one: worker for one, worker in attributes(built.one(Hooks)).items() if hasattr(worker, "_url")
        }
        return {one: worker._url for one, worker in workers.items()} == {name: url}

    return shows


ROWS = [
    Row("mode", "approve", lambda b: b.one(Approval).mode == "ask", {"TTA_SWAP__DRIVER": f"{HERE}:Driver"}),
    Row("policy", "conservative", has(Norm)),
    Row(
        "model.name",
        "test_resnet",
        of_source(lambda m: type(m.module).__name__ == "ResNet"),
        {
            "TTA_MODEL__FACTORY": "",
            "TTA_MODEL__WEIGHTS": "{folder}/timm.safetensors",
            "TTA_MODEL__INPUT_SHAPE": "",
        },
    ),
    Row("model.factory", f"{HERE}:Net", of_source(lambda m: isinstance(m.module, Net))),
    Row(
        "model.onnx",
        "{folder}/net.onnx",
        of_source(lambda m: m.graph is not None),
        {"TTA_MODEL__FACTORY": ""},
    ),
    Row(
        "model.sites",
        "nowhere",
        refused("TTA_MODEL__SITES=nowhere", lambda b: b.source),
        {"TTA_MODEL__FACTORY": "", "TTA_MODEL__ONNX": "{folder}/net.onnx"},
    ),
    Row(
        "model.weights",
        "{folder}/ones.safetensors",
        of_source(lambda m: bool((m.module[-1].bias == 1).all())),
    ),
    Row("model.input_shape", "[1,12,12]", of_source(lambda m: m.shape == (1, 12, 12))),
    Row("model.classes", "7", refused("TTA_MODEL__CLASSES=7", lambda b: b.source)),
    Row(
        "model.output",
        "second",
        of_source(lambda m: m.output.name == "second"),
        {"TTA_MODEL__FACTORY": f"{HERE}:TwoAnswers"},
    ),
    Row("model.task", "multilabel", of_source(lambda m: m.output.kind == "scores")),
    Row("model.mean", "[0.31]", of_source(lambda m: m.mean == (0.31,))),
    Row("model.std", "[0.62]", of_source(lambda m: m.std == (0.62,))),
    Row(
        "model.source_data",
        "{folder}/data.npz",
        lambda b: len(copy.load_source_info(b.settings, b.source).inputs) == 24,
    ),
    Row("model.served_as", "other", lambda b: b.one(Driver).server.model == "other", AUTO),
    Row("model.served_version", "v1.2", lambda b: b.one(VersionNames)("v1.2") == 0),
    Row("model.check_served", "false", lacks(ServedCheck)),
    Row("model.device", "cuda:63", refused("cuda:63", lambda b: b.source)),
    Row("model.threads", "3", of_session(3)),
    Row("model.nice", "13", of_nice),
    Row("stream.source", "http", of_http_source, {"TTA_RECEIVER__PORT": "0"}),
    Row("stream.bootstrap_servers", "127.0.0.1:9", of_consumer("0", "127.0.0.1:9")),
    Row("stream.topic", "other", lambda b: set(of_topics(b)) == {"other", "inference.labels"}),
    Row("stream.labels_topic", "other", lambda b: set(of_topics(b)) == {"other", "inference"}),
    Row("stream.dead_letter_topic", "letters", of_dead_letters),
    Row("stream.output", "results", given(ResultWriter, "topic", "results")),
    Row("stream.codec", f"{HERE}:Format", has(Format)),
    Row(
        "stream.options",
        json.dumps({f"{HERE}:Format": {"registry": "there"}}),
        given(Format, "registry", "there"),
        {"TTA_STREAM__CODEC": f"{HERE}:Format"},
    ),
    Row("stream.inputs", "div255", lambda b: list(b.one(InputCheck)._ways) == ["div255"]),
    Row(
        "stream.responses_topic",
        "other",
        lambda b: set(of_topics(b)) == {"other", "inference", "inference.labels"},
    ),
    Row("stream.join_s", "7.5", lambda b: b.of_each(ResponseJoiner, 7.5)),
    Row("stream.group", "other", of_consumer("2", "other"), KAFKA),
    Row("stream.start", "earliest", of_consumer("start", "earliest"), KAFKA),
    Row("stream.partitions", "3", lambda b: len(of_topics(b)) == 2 * 3),
    Row("stream.max_age_s", "40", of_age),
    Row("stream.queue_bytes", "70001", lambda b: b.of_each(ThreadedStage, 70001)),
    Row("stream.connect_timeout_s", "4.5", of_consumer("connect_timeout_s", 4.5), KAFKA),
    Row("stream.security_protocol", "SASL_SSL", of_consumer("security_protocol", "SASL_SSL"), KAFKA),
    Row("stream.sasl_mechanism", "SCRAM-SHA-256", of_consumer("sasl_mechanism", "SCRAM-SHA-256"), KAFKA),
    Row("stream.sasl_username", "mia", of_consumer("sasl_plain_username", "mia"), KAFKA),
    Row("stream.sasl_password", "s3", of_consumer("sasl_plain_password", "s3"), KAFKA),
    Row("stream.sasl_password_file", "{folder}/password", of_consumer("sasl_plain_password", "s4"), KAFKA),
    Row("stream.ssl_cafile", AUTHORITY, of_consumer("ssl_cafile", AUTHORITY), KAFKA),
    Row("stream.client", "kafka-python", of_consumer("client", "kafka-python"), KAFKA),
    Row("stream.kafka", '{"fetch_max_wait_ms": "77"}', of_consumer("fetch_max_wait_ms", 77), KAFKA),
    Row("labels.horizon_s", "4321", held(LabelJoiner, 4321.0)),
    Row(
        "labels.bucket_s",
        "43",
        lambda b: b.of_each(EvaluationSettings, 43.0) and b.of_each(LabelRequester, 43.0),
    ),
    Row("labels.requests_per_day", "431", held(LabelRequester, 431)),
    Row("labels.requests_uniform", "0.43", held(LabelRequester, 0.43)),
    Row("labels.requests_topic", "requests", of_requests),
    Row("select.selectors", '["entropy"]', has(Entropy), {"TTA_ADAPT__METHOD": "norm"}),
    Row("select.screen", "[]", lacks(Plausible)),
    Row("select.options", '{"entropy": {"margin": 0.123}}', held(Entropy, 0.123)),
    Row("select.sample", "123", lambda b: b.one(WindowSample)._most == 123),
    Row("select.sample_window_s", "7.5", held(WindowSample, 7.5), {"TTA_SELECT__SAMPLE": "9"}),
    Row("select.tenant_share", "0.5", held(WindowSample, 5), {"TTA_SELECT__SAMPLE": "10"}),
    Row("select.holdout", "0.77", held(RecordRouter, 0.77)),
    Row("adapt.method", "norm", has(Norm)),
    Row(
        "adapt.options",
        json.dumps({f"{HERE}:Learner": {"speed": 7.5}}),
        given(Learner, "speed", 7.5),
        {"TTA_ADAPT__METHOD": f"{HERE}:Learner"},
    ),
    Row("adapt.batch_size", "33", held(Batcher, 33)),
    Row("adapt.max_wait_s", "3.5", held(Batcher, 3.5)),
    Row("adapt.rest_share", "0.25", held(DutyCycle, 0.25)),
    Row("adapt.window", "48", held(Window, 48)),
    Row("adapt.precision", "bfloat16", of_precision),
    Row("adapt.memory", "0.37", of_memory),
    Row("schedule.schedules", '["periodic_reset"]', has(PeriodicReset)),
    Row(
        "schedule.options",
        '{"periodic_reset": {"samples": 12345}}',
        held(PeriodicReset, 12345),
        {"TTA_SCHEDULE__SCHEDULES": '["periodic_reset"]'},
    ),
    Row("schedule.candidate_every", "5", held(Cadence, 5)),
    Row("schedule.cooldown_s", "7.5", of_limits(lambda p: p.trip(0.0) == 7.5)),
    Row("gate.gates", '["guarded"]', lambda b: "Guarded" in b.kinds() and "Collapse" not in b.kinds()),
    Row("gate.options", '{"collapse": {"ratio": 0.81}}', held(Collapse, 0.81)),
    Row("gate.alpha", "0.0123", held(AlphaSpending, 0.0123)),
    Row("gate.worst_class", "0.123", held(LabelGuard, 0.123)),
    Row("gate.evaluate_share", "0.66", held(RolloutController, 0.66)),
    Row("gate.recent_bytes", "12345", held(RecentRecords, 12345)),
    Row("gate.patience_records", "1234", held(PromotionRules, 1234)),
    Row("gate.window_records", "1235", held(EvaluationSettings, 1235)),
    Row("gate.anchor", "{folder}/data.npz", lambda b: len(b.one(AnchorSet)) == 24),
    Row(
        "gate.min_interval_s",
        "77",
        of_limits(lambda p: not p.swapped(0.0) and bool(p.forbids(76)) and not p.forbids(78)),
    ),
    Row(
        "gate.swaps_per_day",
        "2",
        of_limits(
            lambda p: (
                not p.swapped(0.0) and not p.forbids(500) and not p.swapped(500) and bool(p.forbids(999))
            )
        ),
    ),
    Row("gate.freeze", '["22:00-23:30"]', of_limits(lambda p: p.frozen(22.5 * 3600) == "22:00-23:30")),
    Row("watch.alpha", "0.0321", held(EvaluationSettings, 0.0321)),
    Row("watch.bake_records", "321", held(EvaluationSettings, 321)),
    Row("watch.window_records", "322", held(EvaluationSettings, 322)),
    Row("watch.trips", "5", held(EvaluationSettings, 5)),
    Row("watch.health_every_s", "32.5", held(ServingMonitor, 32.5)),
    Row("watch.detector", f"{HERE}:Detector", has(Detector)),
    Row(
        "watch.options",
        json.dumps({f"{HERE}:Detector": {"patience": 3}}),
        given(Detector, "patience", 3),
        {"TTA_WATCH__DETECTOR": f"{HERE}:Detector"},
    ),
    Row("watch.follow_domain", "false", held(RegimeFollower, False)),
    Row("watch.guarded_ttl_s", "323", held(PromotionRules, 323.0)),
    Row("swap.driver", f"{HERE}:Driver", has(Driver), {"TTA_MODE": "auto"}),
    Row(
        "swap.options",
        json.dumps({f"{HERE}:Driver": {"folder": "there"}}),
        given(Driver, "folder", "there"),
        AUTO,
    ),
    Row("swap.url", "http://127.0.0.1:9", lambda b: b.one(Driver).server.url == "http://127.0.0.1:9", AUTO),
    Row("swap.token", "s3", lambda b: b.one(Driver).server.token == "s3", AUTO),
    Row("swap.timeout_s", "3.25", lambda b: b.one(Driver).server.timeout_s == 3.25, AUTO),
    Row("store.path", "{folder}/elsewhere", of_store),
    Row("store.proofs", "{folder}/proofs", of_calibration),
    Row("store.versions", "{folder}/elsewhere", of_ledger),
    Row("store.keep", "7", held(ServedModel, 7)),
    Row("store.checkpoint_every", "17", held(Cadence, 17)),
    Row("serve.host", "127.0.0.2", of_address(1, "127.0.0.2")),
    Row("serve.port", "8083", of_address(2, 8083)),
    Row(
        "serve.threads",
        "3",
        of_server(lambda given, _: given[1].current()[1].get_session_options().intra_op_num_threads == 3),
    ),
    Row("serve.device", "cuda:7", lambda b: "cuda:7" in not_started(b)),
    Row("serve.workers", "5", of_server(lambda _, named: named["threads"] == 5)),
    Row("serve.tap", "false", of_server(lambda _, named: named["tap"] is None)),
    Row("serve.token", "s3", of_server(lambda _, named: named["token"] == "s3")),
    Row(
        "serve.hosts",
        "here.example",
        of_server(lambda _, named: named["hosts"].fault("here.example") is None),
    ),
    Row("serve.connections", "99", of_address(3, 99)),
    Row("serve.max_batch", "12", of_server(lambda _, named: named["max_batch"] == 12)),
    Row("serve.batch_size", "16", of_server(lambda _, named: named["batching"] == Batching(16))),
    Row("serve.batch_delay_ms", "5", of_server(lambda _, named: named["batching"] == Batching(1, 0.005))),
    Row("serve.drain_s", "5", of_server(lambda _, named: named["drain_s"] == 5.0)),
    Row("serve.body_bytes", "2000000", of_server(lambda _, named: named["memory_bytes"] == 2_000_000)),
    Row("receiver.host", "127.0.0.2", of_receiver("host", "127.0.0.2"), RECEIVES),
    Row("receiver.port", "8086", of_receiver("port", 8086), RECEIVES),
    Row("receiver.token", "s3", of_receiver("token", "s3"), RECEIVES),
    Row("receiver.hosts", "here.example", of_receiver("hosts", ["here.example"]), RECEIVES),
    Row("receiver.body_bytes", "70002", of_receiver("body_bytes", 70002), RECEIVES),
    Row("receiver.url", "http://127.0.0.1:9", of_poster, RECEIVES),
    Row("http.host", "127.0.0.2", of_interface(1, "127.0.0.2"), {"TTA_HTTP__PORT": "0"}),
    Row("http.port", "8084", of_interface(2, 8084)),
    Row("http.token", "s3", of_token, {"TTA_HTTP__PORT": "0"}),
    Row("http.hosts", "here.example", of_hosts, {"TTA_HTTP__PORT": "0"}),
    Row("http.health_host", "127.0.0.2", of_interface(1, "127.0.0.2"), {"TTA_HTTP__HEALTH_PORT": "0"}),
    Row("http.health_port", "8085", of_interface(2, 8085)),
    Row("http.confirm_url", "http://127.0.0.1:9/c", of_hook("_confirm", "http://127.0.0.1:9/c")),
    Row("http.event_url", "http://127.0.0.1:9/e", of_hook("_events", "http://127.0.0.1:9/e")),
    Row("http.rollback_url", "http://127.0.0.1:9/r", of_hook("_rollback", "http://127.0.0.1:9/r")),
    Row(
        "http.timeout_s",
        "4.75",
        lambda b: b.one(Hooks)._http.timeout.read == 4.75,
        {"TTA_HTTP__EVENT_URL": "http://127.0.0.1:9/e"},
    ),
]


@pytest.fixture(scope="module")
def master() -> GraphTemplate:
    net = Net()
    return GraphTemplate(net, (1, 8, 8))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, master: GraphTemplate) -> Path:
    """A folder with weights, a graph, labelled data and a password."""
    import timm

    folder, net = tmp_path_factory.mktemp("files"), Net()
    save_file({n: torch.ones_like(t) for n, t in net.state_dict().items()}, folder / "ones.safetensors")
    save_file(dict(timm.create_model("test_resnet").state_dict()), folder / "timm.safetensors")
    (folder / "net.onnx").write_bytes(master.compose(net))
    np.savez(folder / "data.npz", inputs=np.zeros((24, 1, 8, 8), np.float32), labels=np.arange(24) % 4)
    (folder / "password").write_text("s4\n")
    return folder


@pytest.fixture
def built(tmp_path: Path, master: GraphTemplate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Built]:
    for name in env.env_names():
        monkeypatch.delenv(name, raising=False)
    found = Built(tmp_path, master, monkeypatch)
    yield found
    found.close()
    torch.set_num_threads(1)


def test_every_setting_has_one_row():
    assert sorted(row.variable for row in ROWS) == sorted(env.env_names())


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_setting_reaches_what_it_is_for(built: Built, files: Path, row: Row) -> None:
    for path in files.iterdir():
        (built.folder / path.name).symlink_to(path)
    usual = {**FASHION, "TTA_STORE__PATH": "{folder}/store"}
    for name, value in {**usual, **row.also, row.variable: row.value}.items():
        built.patch.setenv(name, value.replace("{folder}", str(built.folder)))
    built.variable = row.variable
    assert row.shows(built)
