"""`tta-agent serve` as a command, in an environment without torch, on a registry that the agent has filled."""

from __future__ import annotations

import gzip
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests import worlds
from tests.parts import interpreter, serving
from tests.parts.kafka.broker import free_ports
from tta_agent.registry.registry import ModelRegistry
from tta_agent.stream.codecs import oip

ROOT = Path(__file__).parents[2]
LACKING = ("torch", "onnxscript", "scipy", "pyarrow")  # in pyproject.toml, but not in deploy/serve.txt
ALSO = ("functorch", "nvidia", "triton", "timm", "sklearn", "matplotlib")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment without the packages that only the agent needs."""
    return interpreter.without(tmp_path_factory.mktemp("light"), *LACKING, *ALSO)


class Command:
    """The command in a process of its own."""

    def __init__(self, python: Path, folder: Path, **settings: str) -> None:
        [port] = free_ports(1)
        environ = {
            **worlds.clean_environ(), "TTA_STORE__PATH": str(folder / "store"), "TTA_MODEL__SERVED_AS": "tiny",
            "TTA_SERVE__PORT": str(port), "OMP_NUM_THREADS": "1", **settings,
        }  # fmt: skip
        self.process = subprocess.Popen(
            [python, "-m", "tta_agent", "serve"], cwd=folder, env=environ, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False)

    def await_ready(self) -> None:
        deadline_s = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < deadline_s:
            try:
                self.http.get("/v2/health/ready")
                return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError(self.process.communicate()[0])

    def resident_mb(self) -> float:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


@pytest.fixture
def command(python: Path, tmp_path: Path) -> Iterator[Command]:
    registry = ModelRegistry(tmp_path / "store" / "versions")
    registry.ensure_source("f", lambda: (serving.graph_bytes(0), serving.samples(4)))
    registry.add(serving.graph_bytes(1), registry.get(0), {})
    started = Command(
        python, tmp_path, TTA_SERVE__BATCH_SIZE="8", TTA_SERVE__BATCH_DELAY_MS="1", TTA_SERVE__DRAIN_S="0.5"
    )
    try:
        started.await_ready()
        yield started
    finally:
        started.process.kill()
        started.process.wait()
        started.http.close()


def test_it_serves_swaps_tells_and_ends(command: Command) -> None:
    http, x = command.http, serving.samples(2)
    body, length = oip.encode(oip.Body({"input": x}, parameters={"binary_data_output": True}))
    headers = {oip.HEAD_LENGTH: str(length), "content-encoding": "gzip"}
    order = {"parameters": {"version": "1"}}
    for number in (0, 1):
        response = http.post("/v2/models/tiny/infer", content=gzip.compress(body), headers=headers)
        answer = oip.decode(response.content, int(response.headers[oip.HEAD_LENGTH]))
        assert answer.version == str(number)
        np.testing.assert_allclose(answer.outputs["logits"], serving.answers(x, number), atol=1e-4)
        assert http.post("/v2/repository/models/tiny/load", json=order).status_code == 200
    assert http.get("/v2/models/tiny/config").json()["dynamic_batching"] == {
        "preferred_batch_size": [8], "max_queue_delay_microseconds": 1000
    }  # fmt: skip
    metrics = http.get("/metrics").text
    assert "tta_server_requests_total{" in metrics and "process_memory_usage_bytes{" in metrics
    resident_mb = command.resident_mb()
    command.process.terminate()
    serving.eventually(lambda: http.get("/v2/health/ready").status_code == 503)
    text = command.process.communicate(timeout=30)[0]
    assert command.process.returncode == 0, text
    memory, serves = text.splitlines()
    assert "version 0 on cpu at http://127.0.0.1:" in serves
    said_mb = float(memory.removeprefix("memory: about ").partition(" ")[0])
    assert 0.6 * resident_mb < said_mb < 2 * resident_mb, memory


def test_an_empty_registry_cannot_be_filled_without_torch(python: Path, tmp_path: Path) -> None:
    text, _ = (process := Command(python, tmp_path).process).communicate(timeout=60)
    assert process.returncode == 2
    assert (
        text.startswith(f"tta-agent: the registry {tmp_path / 'store' / 'versions'} is empty")
        and "torch" in text
    )
    assert "Traceback" not in text


def test_the_list_of_its_packages_is_that_of_the_project_without_those(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = (ROOT / "deploy" / "serve.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        line for line in project if not line.startswith(LACKING)
    ]
