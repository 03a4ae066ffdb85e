"""Protocol extensions of the embedded server: configuration, statistics, classification, unload."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import require_or_skip
from tests.parts import python_servers, serving
from tests.serving.test_admission import Slow
from tests.serving.test_server import Server, X, serving_tiny
from tta_agent.core.types import Array
from tta_agent.models.ort_sessions import Session
from tta_agent.serving.server import classification
from tta_agent.stream.codecs import oip

TINY = "/v2/models/tiny"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving_tiny(tmp_path, max_batch=64) as started:
        yield started


def unload(server: Server, number: object = None, model: str = "tiny") -> tuple[int, Any]:
    order = {} if number is None else {"parameters": {"version": str(number)}}
    found = server.http.post(f"/v2/repository/models/{model}/unload", json=order)
    return found.status_code, found.json()


def test_it_names_exactly_the_extensions_that_it_has(server: Server) -> None:
    assert server.http.get("/v2").json()["extensions"] == [
        "binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics",
    ]  # fmt: skip


def test_the_configuration_of_the_model(server: Server) -> None:
    found = server.http.get(f"{TINY}/config").json()
    assert found == server.http.get(f"{TINY}/versions/0/config").json()
    assert (found["name"], found["platform"], found["max_batch_size"]) == ("tiny", "onnxruntime_onnx", 64)
    assert found["input"] == [{"name": "input", "data_type": "TYPE_FP32", "dims": [1, 4, 4]}]
    assert found["output"] == [{"name": "logits", "data_type": "TYPE_FP32", "dims": [3]}]
    for path in ("/v2/models/other/config", f"{TINY}/versions/9/config"):
        assert server.http.get(path).status_code == 404


def statistics(server: Server, path: str = TINY) -> dict[str, dict[str, Any]]:
    entries = server.http.get(f"{path}/stats").json()["model_stats"]
    return {entry["version"]: entry for entry in entries if entry["name"] == "tiny"}


def test_statistics_count_requests_samples_and_executions_by_version(server: Server) -> None:
    assert statistics(server)["0"]["inference_count"] == 0
    server.graphs.add(1)
    server.load("1", activate=False)
    for size in (1, 2, 2):
        server.infer(serving.samples(size))
    server.infer(serving.samples(5), "/versions/1")
    server.http.post(f"{TINY}/infer", json={"inputs": []})  # refused before any version is asked
    found = statistics(server)
    assert list(found) == ["0", "1"] and statistics(server, "/v2/models") == found
    assert statistics(server, f"{TINY}/versions/1") == {"1": found["1"]}
    assert server.http.get(f"{TINY}/versions/9/stats").status_code == 404
    zero, one = found["0"], found["1"]
    assert (zero["inference_count"], zero["execution_count"]) == (5, 3)
    assert (one["inference_count"], one["execution_count"]) == (5, 1)
    counts = {name: part["count"] for name, part in zero["inference_stats"].items()}
    assert counts == {
        "success": 3, "fail": 0, "queue": 3, "compute_input": 3, "compute_infer": 3, "compute_output": 3
    }  # fmt: skip
    took = {name: part["ns"] for name, part in zero["inference_stats"].items()}
    assert took["success"] == sum(
        took[n] for n in ("queue", "compute_input", "compute_infer", "compute_output")
    )
    assert [(entry["batch_size"], entry["compute_infer"]["count"]) for entry in zero["batch_stats"]] == [
        (1, 1),
        (2, 2),
    ]


def test_statistics_count_what_the_model_fails_at(server: Server) -> None:
    class Broken:
        def __init__(self, good: Session) -> None:
            self.get_inputs, self.get_outputs = good.get_inputs, good.get_outputs

        def run(self, outputs: object, feeds: object) -> Any:
            raise RuntimeError("out of memory")

    server.pair.stage(1, Broken(server.pair.current()[1]))
    body, _ = oip.encode(oip.Body({"input": X}), binary=False)
    assert server.http.post(f"{TINY}/versions/1/infer", content=body).status_code == 500
    entry = statistics(server)["1"]
    assert entry["inference_stats"]["fail"]["count"] == 1
    assert (entry["inference_count"], entry["execution_count"], entry["batch_stats"]) == (0, 0, [])


def test_a_version_beside_the_live_one_is_unloaded(server: Server) -> None:
    server.graphs.add(1)
    server.load("1")
    assert unload(server, 9)[0] == 404 and unload(server, 0, "other")[0] == 404
    assert unload(server, 0) == (
        200,
        [
            {"name": "tiny", "version": "1", "state": "READY", "reason": "live"},
            {"name": "tiny", "version": "0", "state": "UNAVAILABLE", "reason": "previous"},
        ],
    )
    assert server.http.get(f"{TINY}/versions/0/ready").status_code == 404
    assert unload(server, 0)[0] == 404
    assert server.load("0").status_code == 200 and server.infer()[0] == "0"


def test_the_live_version_stays(server: Server) -> None:
    for number in (0, None):
        status, told = unload(server, number)
        assert status == 409 and "version 0 is live" in told["error"]
    assert server.infer()[0] == "0"


def test_a_request_on_a_version_that_is_unloaded_is_answered(server: Server) -> None:
    slow, found = Slow(server.pair.current()[1]), []
    server.pair.stage(1, slow)
    thread = threading.Thread(target=lambda: found.append(server.infer(path="/versions/1")))
    thread.start()
    assert slow.asked.wait(10)
    body = json.dumps({"parameters": {"version": "1"}})
    order = server.http.build_request(
        "POST",
        "/v2/repository/models/tiny/unload",
        content=body,
        headers={"content-type": "application/json"},
    )
    assert server.http.send(order).status_code == 200
    slow.go.set()
    thread.join()
    assert found[0][0] == "1"


def classified(server: Server, count: object, *, binary: bool = False, x: Array = X) -> Any:
    wish = {"name": "logits", "parameters": {"classification": count, "binary_data": binary}}
    tensor = {"name": "input", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
    return server.http.post(f"{TINY}/infer", json={"inputs": [tensor], "outputs": [wish]})


@pytest.mark.parametrize("binary", [False, True])
def test_the_best_classes_can_be_asked_for(server: Server, binary: bool) -> None:
    response = classified(server, 2, binary=binary)
    answer = oip.decode(response.content, None)
    found, expected = answer.outputs["logits"], serving.answers(X, 0)
    assert found.shape == (2, 2)
    for texts, row in zip(found, expected, strict=True):
        order = np.argsort(-row)[:2]
        assert [int(text.split(b":")[1]) for text in texts] == order.tolist()
        np.testing.assert_allclose([float(text.split(b":")[0]) for text in texts], row[order], atol=1e-4)
    if not binary:
        assert response.json()["outputs"][0]["datatype"] == "BYTES"
    assert classified(server, 0).json()["outputs"][0]["datatype"] == "FP32", "as Triton reads it"
    assert np.shape(classified(server, 99).json()["outputs"][0]["data"]) == (6,), "there are three classes"


@pytest.mark.parametrize("count", [-1, True, "2", 1.5])
def test_a_number_of_classes_is_checked(server: Server, count: object) -> None:
    response = classified(server, count)
    assert response.status_code == 400 and "classification of logits is" in response.json()["error"]


def test_equal_values_keep_the_order_of_their_classes() -> None:
    found = classification.best(np.array([[1, 5, 5, 4]], np.float32), 3)
    assert found.tolist() == [[b"5.0:1", b"5.0:2", b"4.0:3"]]


CLIENT = """
import json, sys
import numpy as np
import tritonclient.http as http
client = http.InferenceServerClient(sys.argv[1])
seen = {"metadata": client.get_server_metadata(), "config": client.get_model_config("tiny")}
assert client.is_server_ready() and client.is_model_ready("tiny", "0")
client.load_model("tiny")
question = http.InferInput("input", [2, 1, 4, 4], "FP32")
x = np.random.default_rng(0).normal(size=(2, 1, 4, 4)).astype(np.float32)
for binary in (False, True):
    question.set_data_from_numpy(x, binary_data=binary)
    for coding in (None, "gzip", "deflate"):
        plain = http.InferRequestedOutput("logits", binary_data=binary)
        best = http.InferRequestedOutput("logits", binary_data=binary, class_count=2)
        how = {"request_compression_algorithm": coding, "response_compression_algorithm": coding}
        logits = client.infer("tiny", [question], outputs=[plain], **how).as_numpy("logits")
        top = client.infer("tiny", [question], outputs=[best], **how).as_numpy("logits")
        texts = [[t.decode() if binary else t for t in row] for row in top]
        seen.setdefault("answers", []).append([logits.tolist(), texts])
seen["stats"] = client.get_inference_statistics("tiny")
seen["index"] = client.get_model_repository_index()
try:
    client.unload_model("tiny")
except Exception as error:
    seen["unload"] = str(error)
print(json.dumps(seen))
"""


@pytest.mark.mlserver
def test_tritons_own_client_understands_all_of_it(server: Server) -> None:
    """The client comes with MLServer's packages."""
    require_or_skip("mlserver", python_servers.unavailable("mlserver"))
    python = python_servers.folder("mlserver") / "bin" / "python"
    address = f"127.0.0.1:{server.http.base_url.port}"
    done = subprocess.run([python, "-c", CLIENT, address], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["config"]["input"][0]["dims"] == [1, 4, 4]
    assert len(seen["answers"]) == 6
    for logits, top in seen["answers"]:
        np.testing.assert_allclose(logits, serving.answers(X, 0), atol=1e-4)
        best = [[int(text.split(":")[1]) for text in row] for row in top]
        assert best == np.argsort(-serving.answers(X, 0))[:, :2].tolist()
    assert seen["stats"]["model_stats"][0]["inference_count"] == 24
    assert seen["index"][0]["state"] == "READY" and "version 0 is live" in seen["unload"]
