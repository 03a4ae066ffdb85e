"""The examples of the guide as they stand there: real servers, whose inferences come to the agent's receiver."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests import worlds
from tests.conftest import require_or_skip
from tests.parts import python_servers, serving
from tests.parts.kafka.broker import free_ports
from tta_agent.core.types import RawRecord, Record, ServerInfo
from tta_agent.serving.drivers.files import FilesDriver
from tta_agent.serving.swap import bring_up
from tta_agent.settings import env
from tta_agent.stream import factory
from tta_agent.stream.codecs import oip
from tta_agent.stream.decoder import Decoder
from tta_agent.stream.http.consumer import HttpStreamConsumer

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
START_LIMIT_S = 90.0
X = serving.samples(6)
PRODUCERS = pytest.mark.producers


@pytest.fixture
def consumer() -> Iterator[HttpStreamConsumer]:
    opened = HttpStreamConsumer(["inference", "inference.labels"], "inference.labels")
    yield opened
    opened.close()


@contextlib.contextmanager
def running(
    part: str, receiver: str, folder: Path, command: Sequence[str], ready: str, **environ: str
) -> Iterator[None]:
    """A server in an environment of its own, in which there is no torch; it is told to end, not killed."""
    require_or_skip(part, python_servers.unavailable(part))
    python = python_servers.folder(part) / "bin"
    given = {
        **worlds.clean_environ(), "PYTHONPATH": without_dependencies(folder), "TTA_STREAM__SOURCE": "http",
        "TTA_RECEIVER__URL": receiver, "OMP_NUM_THREADS": "1", "BENTOML_DO_NOT_TRACK": "1",
        "BENTOML_HOME": str(folder / "bento"), **environ,
    }  # fmt: skip
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(python / command[0]), *command[1:]],
            cwd=folder,
            env=given,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        deadline_s = time.monotonic() + START_LIMIT_S
        while not answers(ready):
            assert process.poll() is None and time.monotonic() < deadline_s, log.read_text()[-3000:]
            time.sleep(0.1)
        yield
        process.terminate()
        process.wait(20)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait(20)


def without_dependencies(folder: Path) -> str:
    """Path on which this package is installed, and none of its dependencies is."""
    installed = Path(str(metadata.distribution("tta-agent").locate_file("")))
    (folder / "site").mkdir()
    for about in installed.glob("tta_agent-*.dist-info"):
        (folder / "site" / about.name).symlink_to(about)
    parts = (ROOT, ROOT / "adapters", ROOT / "policies", EXAMPLES, folder / "site")
    return os.pathsep.join(map(str, parts))


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=2).is_success
    except httpx.HTTPError:
        return False


def logged(consumer: HttpStreamConsumer, count: int) -> list[Record]:
    raws: list[RawRecord] = []
    deadline_s = time.monotonic() + 20
    while len(raws) < count and time.monotonic() < deadline_s:
        raws += consumer.poll(0.2)
    decoder = Decoder(factory.open_codec(env.load()), serving.SHAPE, serving.CLASSES)
    found = [one for one in decoder.read(raws) if isinstance(one, Record)]
    assert len(found) == count, decoder.first
    return sorted(found, key=lambda record: record.id)


def check(found: Sequence[Record], ids: Sequence[str], versions: Sequence[int]) -> None:
    assert [(one.id, one.version) for one in found] == list(zip(ids, versions, strict=True))
    for record, x, number in zip(found, X, versions, strict=False):
        np.testing.assert_allclose(record.x, x, rtol=1e-5)
        assert record.served is not None
        np.testing.assert_allclose(record.served, serving.answers(x[None], number)[0], rtol=1e-3)


def ask(url: str, ids: Sequence[str], body: Callable[[int, str], Mapping[str, Any]]) -> None:
    for i, id in enumerate(ids):
        answer = httpx.post(url, json=body(i, id), headers={"x-request-id": id}, trust_env=False, timeout=30)
        assert answer.status_code == 200, answer.text


def pixels(i: int, id: str) -> dict[str, Any]:
    return {"id": id, "pixels": X[i].tolist()}


@PRODUCERS
def test_fastapi_is_logged_and_swapped(consumer: HttpStreamConsumer, tmp_path: Path) -> None:
    graphs, (port,) = serving.GraphFolder(tmp_path), free_ports(1)
    models = tmp_path / "models" / "m"
    (models / "0").mkdir(parents=True)
    (models / "0" / "model.onnx").write_bytes(serving.graph_bytes(0))
    command = ["uvicorn", "fastapi_onnx:app", "--port", str(port), "--log-level", "warning"]
    url = f"http://127.0.0.1:{port}"
    with running("producers", consumer.url, tmp_path, command, f"{url}/docs", MODELS=str(models)):
        ask(f"{url}/predict", ["a", "b"], pixels)
        driver = FilesDriver(ServerInfo("", "m", 10, source=0), repository=str(models.parent))
        bring_up(driver, graphs.add(1), serving.golden(1))
        first = httpx.post(
            f"{url}/predict", json=pixels(2, "c"), headers={"tta-probe": "1"}, trust_env=False
        ).json()
        while abs(first["scores"][0] - serving.answers(X[2:3], 1)[0, 0]) > 1:
            time.sleep(0.2)
            first = httpx.post(
                f"{url}/predict", json=pixels(2, "c"), headers={"tta-probe": "1"}, trust_env=False
            ).json()
        ask(f"{url}/predict", ["c"], lambda i, id: pixels(2, id))
    check(logged(consumer, 3), ["a", "b", "c"], [0, 0, 1])


@PRODUCERS
def test_litserve(consumer: HttpStreamConsumer, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    graph = serving.GraphFolder(tmp_path).add(0).path
    command = ["python", str(EXAMPLES / "litserve_onnx.py")]
    url = f"http://127.0.0.1:{port}"
    with running(
        "producers", consumer.url, tmp_path, command, f"{url}/health", MODEL=str(graph), PORT=str(port)
    ):
        ask(f"{url}/predict", ["a", "b"], pixels)
        check(logged(consumer, 2), ["a", "b"], [0, 0])


@PRODUCERS
def test_bentoml(consumer: HttpStreamConsumer, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    graph = serving.GraphFolder(tmp_path).add(0).path
    command = ["bentoml", "serve", "bentoml_onnx:Classifier", "--port", str(port), "--host", "127.0.0.1"]
    command += ["--working-dir", str(EXAMPLES)]
    url = f"http://127.0.0.1:{port}"
    with running("producers", consumer.url, tmp_path, command, f"{url}/readyz", MODEL=str(graph)):
        ask(f"{url}/predict", ["a", "b"], pixels)
        check(logged(consumer, 2), ["a", "b"], [0, 0])


@pytest.mark.kserve
@pytest.mark.parametrize("binary", [True, False])
def test_kserves_python_server(consumer: HttpStreamConsumer, tmp_path: Path, binary: bool) -> None:
    (port,) = free_ports(1)
    graph = serving.GraphFolder(tmp_path).add(0).path
    command = ["python", str(EXAMPLES / "kserve_onnx_tap.py"), "--model_name", "m", "--http_port", str(port)]
    url, wish = f"http://127.0.0.1:{port}/v2/models/m", {"binary_data_output": binary}
    with running("kserve", consumer.url, tmp_path, command, f"{url}/ready", MODEL=str(graph)):
        for i, id in enumerate("ab"):
            text, length = oip.encode(
                oip.Body({"pixels": X[i : i + 1]}, id=id, parameters=wish), binary=binary
            )
            heads = {oip.HEAD_LENGTH: str(length)} if length else {"content-type": "application/json"}
            answer = httpx.post(f"{url}/infer", content=text, headers=heads, trust_env=False, timeout=30)
            assert answer.is_success and (oip.HEAD_LENGTH in answer.headers) == binary, answer.text
    check(logged(consumer, 2), ["a", "b"], [0, 0])


@pytest.mark.mlserver
def test_mlserver(consumer: HttpStreamConsumer, tmp_path: Path) -> None:
    http, grpc, metrics = free_ports(3)
    (tmp_path / "model.onnx").write_bytes(serving.graph_bytes(0))
    model = {
        "name": "m",
        "implementation": "mlserver_onnx_tap.OnnxModel",
        "parameters": {"uri": "./model.onnx"},
    }
    (tmp_path / "model-settings.json").write_text(json.dumps(model))
    own = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,
    }
    (tmp_path / "settings.json").write_text(json.dumps(own))
    url = f"http://127.0.0.1:{http}/v2/models/m"

    def tensor(i: int, id: str) -> dict[str, Any]:
        values = {
            "name": "pixels",
            "datatype": "FP32",
            "shape": [1, *serving.SHAPE],
            "data": X[i].ravel().tolist(),
        }
        return {"id": id, "inputs": [values]}

    with running("mlserver", consumer.url, tmp_path, ["mlserver", "start", str(tmp_path)], f"{url}/ready"):
        ask(f"{url}/infer", ["a", "b"], tensor)
    check(logged(consumer, 2), ["a", "b"], [0, 0])
