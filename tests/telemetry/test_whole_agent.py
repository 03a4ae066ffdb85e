"""Telemetry of an agent that is built from settings, as a collector receives it."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import numpy as np
import pytest

from tests.parts.otlp import OtlpReceiver
from tta_agent.assembly import build
from tta_agent.control.commands import Command, CommandInbox
from tta_agent.core.errors import StreamError
from tta_agent.core.stream_protocols import Producer
from tta_agent.models.loader import DeployedModel
from tta_agent.models.onnx_export import GraphTemplate, answers
from tta_agent.pipeline.agent import Agent
from tta_agent.serving.drivers.none import NoDriver
from tta_agent.settings import env
from tta_agent.settings.schema import Settings
from tta_agent.stream import factory
from tta_agent.stream.codecs.cloudevents import CloudEvents

TINY = {"factory": "tests.worlds:tiny_batch_net", "input_shape": [1, 8, 8]}
RECORDS = 40
ALL = {"requests_uniform": 1.0, "requests_per_day": 4000, "bucket_s": 0}  # of held-out records


class Down:
    """A stream to which nothing can be written."""

    def send(self, topic: str, *message: object, on_done: object = None) -> None:
        raise StreamError(f"{topic} is away")

    def flush(self, timeout_s: float = 10.0) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def deployed() -> tuple[DeployedModel, GraphTemplate]:
    """The model and its graph, which takes seconds to export."""
    source = build.load_source(env.load(model=TINY))
    return source, GraphTemplate(source.module, source.shape)


def made(settings: Settings, deployed: tuple[DeployedModel, GraphTemplate], producer: Producer) -> Agent:
    """An agent with telemetry as the environment asks for it."""
    source, master = deployed
    return build.assemble(
        settings, source, factory.open_source(settings, [settings.stream.topic]), producer,
        NoDriver(), build.open_telemetry(settings), template=master, threaded=False,
    )  # fmt: skip


def read_all(agent: Agent) -> None:
    """To the record that cannot be read, and the end."""
    while not agent.decoder.refused:
        agent.read()
    end(agent)


def end(agent: Agent) -> None:
    agent.close()
    agent.telemetry.shutdown()


def settings(folder: Path, **more: dict[str, object]) -> Settings:
    groups = {"store": {"path": folder}, "stream": {"start": "earliest"}, **more}
    return env.load(model=TINY, **groups)


def send(settings: Settings, deployed: tuple[DeployedModel, GraphTemplate]) -> None:
    """Records as the model answers them, and one that cannot be read."""
    producer = factory.open_producer(settings, [])
    for i in range(RECORDS):
        x = np.full((1, 1, 8, 8), i / RECORDS, np.float32)
        z = answers(deployed[0].module, x)
        event = CloudEvents().encode_inference(f"r{i}", x, z, 0, source="t", model="m", time_s=time.time())
        producer.send(settings.stream.topic, *event)
    producer.send(settings.stream.topic, b"key", b"no record", ())
    producer.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_what_could_not_be_handed_on_is_counted_by_reason(
    tmp_path: Path, receiver: OtlpReceiver, deployed: tuple[DeployedModel, GraphTemplate]
) -> None:
    """A dead letter, requests for labels, and an event, while stream and webhook are away."""
    labels = {**ALL, "requests_topic": "requests"}
    s = settings(tmp_path, labels=labels, http={"event_url": f"http://127.0.0.1:{free_port()}/"})
    send(s, deployed)
    agent = made(s, deployed, Down())
    CommandInbox(tmp_path).put(Command("reject", 1, "mia", ""))
    read_all(agent)
    dropped = {a["tta.reason"]: n for a, n in receiver.points("tta.dropped")}
    held = agent.learner.routed_total["held_out"]
    assert dropped == {"dead_letter": 1, "label_request": held, "webhook_event": 1}
    assert held > 0


@pytest.mark.parametrize("full", [False, True])
def test_requests_that_a_disk_refuses_are_counted_too(
    tmp_path: Path, receiver: OtlpReceiver, deployed: tuple[DeployedModel, GraphTemplate], full: bool
) -> None:
    s = settings(tmp_path, labels=ALL)
    if full:
        (tmp_path / "label-requests.jsonl").mkdir()
    send(s, deployed)
    producer = factory.open_producer(s, [])
    agent = made(s, deployed, producer)
    read_all(agent)
    producer.close()
    lost = [({"tta.reason": "label_request"}, agent.learner.routed_total["held_out"])] if full else []
    assert receiver.points("tta.dropped") == lost


@pytest.mark.parametrize(("mode", "policy"), [("shadow", "norm"), ("observe", "frozen")])
def test_the_info_of_what_serves(
    tmp_path: Path,
    receiver: OtlpReceiver,
    deployed: tuple[DeployedModel, GraphTemplate],
    mode: str,
    policy: str,
) -> None:
    s = settings(tmp_path, adapt={"method": "norm"}).model_copy(update={"mode": mode})
    agent = made(s, deployed, Down())
    end(agent)
    ((info, one),) = receiver.points("tta.model.info")
    assert info.pop("tta.model.sha256") == agent.rollout.served.version.sha256
    about = {"tta.policy": policy, "tta.model.source": "tests.worlds:tiny_batch_net", "tta.proof": "source"}
    assert (info, one) == ({"tta.model.version": 0, **about}, 1)


@pytest.mark.parametrize(
    ("model", "source"),
    [
        ({"name": "resnet18", "weights": "/mnt/secret/w.safetensors"}, "resnet18"),
        ({"onnx": "/mnt/secret/net.onnx"}, "net.onnx"),
    ],
)
def test_the_source_is_a_name_without_a_folder(
    receiver: OtlpReceiver, model: dict[str, str], source: str
) -> None:
    telemetry = build.open_telemetry(env.load(model=model))
    telemetry.model(3, "ab12", "certified")
    telemetry.shutdown()
    ((info, _),) = receiver.points("tta.model.info")
    assert (info["tta.model.source"], info["tta.proof"]) == (source, "certified")
    assert "secret" not in repr(info)
