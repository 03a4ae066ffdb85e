"""Stream, learn, certify, swap, watch: the guide's command beside a real server, with users who shift and label."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

from tests import worlds
from tests.conftest import require_or_skip
from tests.parts import python_servers, triton
from tta_agent.demo.processes import Child
from tta_agent.models import onnx_export
from tta_agent.registry.registry import ModelRegistry
from tta_agent.samples import dataset
from tta_agent.samples.nets import fashion_net
from tta_agent.settings import env
from tta_agent.stream import factory

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "own-server.md"
PATIENCE_S = 240.0


def command(driver: str, **real: str) -> dict[str, str]:
    """Variables of the guide's command for a driver, with real places in it."""
    line = next(line for line in GUIDE.read_text().splitlines() if f"TTA_SWAP__DRIVER={driver} " in line)
    *variables, program, verb = shlex.split(line)
    assert (program, verb) == ("tta-agent", "run")
    found = dict(variable.split("=", 1) for variable in variables)
    found["TTA_SWAP__URL"] = real["url"]
    for name in ("TTA_MODEL__ONNX", "TTA_SWAP__OPTIONS"):
        found[name] = found[name].replace("/models", real["models"])
    if "grpc" in real:  # the guide's server has its standard port
        options = json.loads(found["TTA_SWAP__OPTIONS"])
        options[driver]["grpc"] = real["grpc"]
        found["TTA_SWAP__OPTIONS"] = json.dumps(options)
    return found


@contextlib.contextmanager
def on_triton(folder: Path, graph: bytes) -> Iterator[Mapping[str, str]]:
    require_or_skip("triton", triton.unavailable())
    (folder / "models").mkdir()
    triton.add_model(folder / "models", "m", graph, sample=(1, 28, 28), answer=(10,))
    with triton.running(folder, folder / "models", ["m"]) as server:
        yield command("triton", url=server.url, models=str(folder / "models"), grpc=server.grpc)


@contextlib.contextmanager
def on_mlserver(folder: Path, graph: bytes) -> Iterator[Mapping[str, str]]:
    require_or_skip("mlserver", python_servers.unavailable("mlserver"))
    python_servers.add_model("mlserver", folder / "models", "m", graph)
    with python_servers.running("mlserver", folder, folder / "models", "m") as server:
        yield command("oip", url=server.url, models=str(folder / "models"))


@pytest.fixture(scope="module")
def graph() -> bytes:
    """The file that its owner deployed."""
    net = fashion_net()
    net.load_state_dict(load_file(dataset.ASSETS / dataset.WEIGHTS))
    exported = onnx_export.export(net.eval(), torch.zeros(2, 1, 28, 28))
    onnx.checker.check_model(exported)
    return bytes(exported.SerializeToString())


class Users:
    """They ask the server, log what it answered, and send the truth a moment later."""

    def __init__(self, variables: Mapping[str, str], store: Path) -> None:
        self._url, self._input = variables["TTA_SWAP__URL"], ""
        settings = env.load(store={"path": store})
        self._stream = settings.stream
        self._producer = factory.open_producer(settings, [settings.stream.labels_topic])
        _, self._shifted, self._labels = worlds.images(4000)
        self._http = httpx.Client(base_url=self._url, timeout=60, trust_env=False)
        self._input = self._http.get("/v2/models/m").json()["inputs"][0]["name"]
        self.sent, self.right = 0, dict[str, list[bool]]()

    def ask(self, n: int = 50) -> None:
        """So many users more, each answered and logged."""
        for at in range(self.sent, self.sent + n):
            x, truth = self._shifted[at % 4000 : at % 4000 + 1], int(self._labels[at % 4000])
            entry = {"name": "input", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
            response = self._http.post(
                "/v2/models/m/infer", json={"inputs": [{**entry, "name": self._input}]}
            )
            assert response.is_success, response.text
            told = response.json()
            logits = told["outputs"][0]["data"]
            self.right.setdefault(told["model_version"], []).append(int(np.argmax(logits)) == truth)
            output = {
                "name": "logits",
                "datatype": "FP32",
                "shape": [1, 10],
                "data": np.ravel(logits).tolist(),
            }
            body = {
                "id": f"u{at}",
                "model_version": told["model_version"],
                "inputs": [entry],
                "outputs": [output],
            }
            self._producer.send(self._stream.topic, None, json.dumps(body).encode())
            label = {"id": f"u{at}", "label": truth, "ts": time.time()}
            self._producer.send(self._stream.labels_topic, None, json.dumps(label).encode())
        self.sent += n
        self._producer.flush()

    def close(self) -> None:
        """Close what was opened."""
        self._producer.close()
        self._http.close()


def event(store: Path, name: str) -> dict[str, Any] | None:
    """The first event of that name."""
    path = store / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return next((found for line in lines if (found := json.loads(line))["event"] == name), None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    [
        pytest.param(on_triton, marks=pytest.mark.triton),
        pytest.param(on_mlserver, marks=pytest.mark.mlserver),
    ],
)
def test_the_guides_command_beside_a_real_server(place: Any, graph: bytes, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with place(tmp_path, graph) as variables:
        small = {
            "TTA_STORE__PATH": str(store),
            "TTA_STREAM__START": "earliest",
            "TTA_GATE__SWAPS_PER_DAY": "1",
            "TTA_WATCH__BAKE_RECORDS": "100",
        }
        agent = Child("run", {**variables, **small}, tmp_path / "agent.log")
        agent.start()
        users = Users(variables, store)
        try:
            deadline_s = time.monotonic() + PATIENCE_S
            while not (event(store, "swap") and event(store, "confirmed")):
                assert not agent.died() and time.monotonic() < deadline_s, (
                    tmp_path / "agent.log"
                ).read_text()[-3000:]
                users.ask()
            swap = event(store, "swap")
            assert swap is not None and swap["proof"] == "certified" and event(store, "swap_failed") is None
            served = str(1 + swap["version"])
            assert set(users.right) >= {"1", served}
            before, after = (np.mean(users.right[number]) for number in ("1", served))
            assert after > before + 0.1, (before, after)
            registry = ModelRegistry(store / "versions", store / "cache")
            assert registry.aliases()["serving"] is not None
            agent.stop()
            rolled = [sys.executable, "-m", "tta_agent", "rollback", "--to", "0"]
            environ = {**worlds.clean_environ(), **variables, **small}
            done = subprocess.run(
                rolled, env=environ, timeout=120, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            users.right.clear()
            users.ask(5)
            assert set(users.right) == {"1"} and registry.aliases()["serving"] == 0
        finally:
            agent.stop()
            users.close()
