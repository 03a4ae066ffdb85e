"""The guide's pod without a broker, in processes of its own: FastAPI with the middleware beside `tta-agent run`."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests import worlds
from tests.parts.kafka.broker import free_ports
from tests.tap.test_examples import running
from tta_agent.demo.processes import Child
from tta_agent.models import onnx_export
from tta_agent.samples import dataset
from tta_agent.samples.nets import fashion_net

PATIENCE_S = 240.0


def deployed(models: Path) -> Path:
    """The file that its owner deployed, where the example looks for it."""
    net = fashion_net()
    net.load_state_dict(load_file(dataset.ASSETS / dataset.WEIGHTS))
    (models / "0").mkdir(parents=True)
    graph = models / "0" / "model.onnx"
    graph.write_bytes(onnx_export.export(net.eval(), torch.zeros(2, 1, 28, 28)).SerializeToString())
    return graph


@contextlib.contextmanager
def started(agent: Child) -> Iterator[None]:
    """The agent runs within, and does not outlive a test that fails or is skipped."""
    agent.start()
    try:
        yield
    finally:
        agent.stop()


@pytest.mark.slow
@pytest.mark.producers
def test_fastapi_and_the_agent_without_a_broker(tmp_path: Path) -> None:
    port, receiver = free_ports(2)
    models, url, posts = tmp_path / "models" / "m", f"http://127.0.0.1:{port}", f"http://127.0.0.1:{receiver}"
    agent = Child(
        "run",
        {
            "TTA_STREAM__SOURCE": "http", "TTA_RECEIVER__PORT": str(receiver), "TTA_MODE": "auto",
            "TTA_MODEL__ONNX": str(deployed(models)), "TTA_MODEL__SERVED_AS": "m", "TTA_SWAP__DRIVER": "files",
            "TTA_SWAP__OPTIONS": json.dumps({"files": {"repository": str(models.parent)}}),
            "TTA_STORE__PATH": str(tmp_path / "store"),
        },
        tmp_path / "agent.log",
    )  # fmt: skip
    _, shifted, labels = worlds.images(4000)
    right: dict[int, list[bool]] = {}
    command = ["uvicorn", "fastapi_onnx:app", "--port", str(port), "--log-level", "warning"]
    with (
        started(agent),
        running("producers", posts, tmp_path, command, f"{url}/docs", MODELS=str(models)),
        httpx.Client(trust_env=False, timeout=30) as http,
    ):
        agent.wait_until(lambda: (tmp_path / "store" / "status.json").exists(), "the agent")

        def scores(id: str, image: int) -> list[float]:
            """The app's answer to one of the images."""
            pixels = {"pixels": shifted[image].tolist()}
            answer = http.post(f"{url}/predict", json=pixels, headers={"x-request-id": id}).json()
            return list(answer["scores"])

        deadline_s, at, current = time.monotonic() + PATIENCE_S, 0, models / "current"
        before, swapped = scores("before", 0), False
        while len(right.get(1, [])) < 100:
            assert not agent.died() and time.monotonic() < deadline_s, agent.log.read_text()[-3000:]
            # the app follows the link once a second: it has when it answers otherwise
            swapped = swapped or (current.exists() and scores(f"p{at}", 0) != before)
            truth = int(labels[at % 4000])
            right.setdefault(int(swapped), []).append(int(np.argmax(scores(f"u{at}", at % 4000))) == truth)
            assert http.post(f"{posts}/labels", json={"id": f"u{at}", "label": truth}).status_code == 202
            at += 1
    assert agent.stop() == 0
    events = [json.loads(line) for line in (tmp_path / "store" / "events.jsonl").read_text().splitlines()]
    assert next(event["proof"] for event in events if event["event"] == "swap") == "certified"
    assert np.mean(right[1]) > np.mean(right[0]) + 0.1
    records = json.loads((tmp_path / "store" / "status.json").read_text())["records"]
    assert records["undecodable"] == {} and records["matched"] >= at - 200
