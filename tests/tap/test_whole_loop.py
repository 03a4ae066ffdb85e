"""One pod without a broker: a server with the middleware posts to the agent, which learns, proves and swaps."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests import worlds
from tests.parts import serving
from tests.parts.kafka.broker import free_ports
from tests.pipeline.test_agent import Running, World, until
from tta_agent.models.ort_sessions import run
from tta_agent.stream import factory
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.tap import Tap, TapMiddleware


class Posted(World):
    """Users who ask a server over HTTP; the agent sees only what the server's middleware posts, and labels."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        port = str(free_ports(1)[0])
        super().__init__(path, monkeypatch, TTA_STREAM__SOURCE="http", TTA_RECEIVER__PORT=port)
        topic = self.settings.stream.topic
        poster = factory.open_producer(self.settings, [topic])
        self.tap = Tap(poster, CloudEvents(), topic, "m", on_close=poster.close)

    def app(self) -> Starlette:
        """The server of its owner: Open Inference Protocol in JSON."""

        async def infer(request: Request) -> Response:
            asked = await request.json()
            x = np.array(asked["inputs"][0]["data"], np.float32).reshape(asked["inputs"][0]["shape"])
            number, session = self.pair.current()
            logits = await run_in_threadpool(run, session, x)
            output = {
                "name": "logits",
                "datatype": "FP32",
                "shape": list(logits.shape),
                "data": logits.ravel().tolist(),
            }
            return JSONResponse({"id": asked["id"], "model_version": str(number), "outputs": [output]})

        inside = Middleware(TapMiddleware, tap=self.tap)
        return Starlette(routes=[Route("/v2/models/m/infer", infer, methods=["POST"])], middleware=[inside])

    def ask(self, http: httpx.Client, n: int) -> None:
        _, shifted, labels = worlds.images(6000)
        for i in range(self.sent, self.sent + n):
            x, id = shifted[i % 6000], f"u{i}"
            tensor = {"name": "input", "datatype": "FP32", "shape": [1, *x.shape], "data": x.ravel().tolist()}
            answer = http.post("/v2/models/m/infer", json={"id": id, "inputs": [tensor]}).json()
            truth = int(labels[i % 6000])
            said = int(np.argmax(answer["outputs"][0]["data"]))
            self.right.append((int(answer["model_version"]), said == truth))
            label = json.dumps({"id": id, "label": truth, "ts": time.time()}).encode()
            self.producer.send(self.settings.stream.labels_topic, None, label)
        self.sent += n


@contextlib.contextmanager
def asked(world: Posted) -> Iterator[httpx.Client]:
    """The server, for its users."""
    with serving.running(world.app()) as url, httpx.Client(base_url=url, timeout=30, trust_env=False) as http:
        yield http
    world.tap.close()
    world.producer.close()


@pytest.mark.slow
def test_server_middleware_receiver_agent_swap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = Posted(tmp_path, monkeypatch)
    agent: Any = world.agent()
    with asked(world) as http, Running(agent):
        until(lambda: world.pair.current()[0] > 0, lambda: world.ask(http, 64))
        world.ask(http, 200)
    swap = world.events(agent, "swap")[0]
    assert world.registry.get(swap["version"]).proof == "certified"
    before = [right for number, right in world.right if number == 0]
    after = [right for number, right in world.right if number != 0]
    assert np.mean(after) > np.mean(before) + 0.2
    counts = world.tap.counts()
    assert counts["sent"] + counts["errors"] == world.sent and counts["dropped"] == counts["left_out"] == 0
    records = json.loads((tmp_path / "store" / "status.json").read_text())["records"]
    assert records["undecodable"] == {} and records["matched"] > 200


@pytest.mark.slow
def test_an_agent_that_starts_anew_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Posted(tmp_path, monkeypatch)
    with asked(world) as http:
        first: Any = world.agent()
        with Running(first):
            until(lambda: first.learner.adaptation.rounds >= 2, lambda: world.ask(http, 64))
        rounds = first.learner.adaptation.rounds
        second: Any = world.agent()
        assert second.resume()
        began = second.consumer.positions()[world.settings.stream.topic, 0]
        assert second.learner.adaptation.rounds == rounds and 0 < began <= world.sent
        with Running(second):
            until(lambda: second.learner.adaptation.rounds > rounds, lambda: world.ask(http, 64))
        assert not second.learner.routed_total["duplicate"]
