"""The embedded model server, over real HTTP."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.parts import serving
from tta_agent.core.types import Array, RawRecord, Record
from tta_agent.models.ort_sessions import HotSwapSession, Session, open_session, open_version
from tta_agent.serving.server.app import make_app
from tta_agent.serving.server.stats import Stats
from tta_agent.stream.codecs import oip
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.tap import Tap

TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
X = serving.samples(2)


@dataclass
class Server:
    http: httpx.Client
    graphs: serving.GraphFolder
    pair: HotSwapSession

    def infer(self, x: Array = X, path: str = "", **headers: str) -> tuple[str | None, Array]:
        body, length = oip.encode(oip.Body({"input": x}, parameters={"binary_data_output": True}))
        named = {oip.HEAD_LENGTH: str(length)} | {
            name.replace("_", "-"): text for name, text in headers.items()
        }
        response = self.http.post(f"/v2/models/tiny{path}/infer", content=body, headers=named)
        assert response.status_code == 200, response.text
        answer = oip.decode(response.content, int(response.headers[oip.HEAD_LENGTH]))
        return answer.version, answer.outputs["logits"]

    def load(self, number: object, **parameters: object) -> httpx.Response:
        order = {"parameters": {"version": number} | parameters}
        return self.http.post("/v2/repository/models/tiny/load", json=order)

    def index(self) -> dict[str, str]:
        entries = self.http.post("/v2/repository/index", json={}).json()
        assert {entry["name"] for entry in entries} == {"tiny"}
        return {entry["version"]: entry["reason"] for entry in entries}

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get("/v2/stats").json()
        return found


@contextmanager
def serving_tiny(folder: Path, **options: Any) -> Iterator[Server]:
    graphs = serving.GraphFolder(folder)
    pair = HotSwapSession(0, open_version(graphs.add(0), open_session))
    app = make_app("tiny", pair, graphs.find, **options)
    with serving.running(app) as url, httpx.Client(base_url=url, timeout=30, trust_env=False) as http:
        yield Server(http, graphs, pair)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving_tiny(tmp_path) as started:
        yield started


def test_it_describes_itself_and_the_model(server: Server) -> None:
    assert "model_repository" in server.http.get("/v2").json()["extensions"]
    assert server.http.get("/v2/health/live").json() == {"live": True}
    assert server.http.get("/v2/health/ready").json() == {"ready": True}
    assert server.http.get("/v2/models/tiny/ready").json()["ready"] is True
    assert server.http.get("/v2/models/tiny/versions/0/ready").status_code == 200
    metadata = server.http.get("/v2/models/tiny").json()
    assert metadata["versions"] == ["0"]
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 4, 4]}]
    assert metadata["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}]


def test_json_in_and_json_out(server: Server) -> None:
    tensor = {"name": "input", "datatype": "FP32", "shape": [2, 1, 4, 4], "data": X.ravel().tolist()}
    response = server.http.post("/v2/models/tiny/infer", json={"id": "mine", "inputs": [tensor]})
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tiny", "0", "mine")
    logits = np.reshape(answer["outputs"][0]["data"], answer["outputs"][0]["shape"])
    np.testing.assert_allclose(logits, serving.answers(X, 0), atol=1e-4)


def test_binary_in_and_binary_out_on_both_urls(server: Server) -> None:
    for path in ("", "/versions/0"):
        version, logits = server.infer(path=path)
        assert version == "0"
        np.testing.assert_allclose(logits, serving.answers(X, 0), atol=1e-4)


@pytest.mark.parametrize(("wish", "binary"), [(True, True), (False, False), (None, False)])
def test_the_form_of_an_output_can_be_asked_for(server: Server, wish: bool | None, binary: bool) -> None:
    body, length = oip.encode(oip.Body({"input": X}, wanted={"logits": wish}))
    response = server.http.post("/v2/models/tiny/infer", content=body, headers={oip.HEAD_LENGTH: str(length)})
    assert (oip.HEAD_LENGTH in response.headers) == binary
    found = oip.decode(response.content, None)
    assert found.id, "an id is made where none was given"
    np.testing.assert_allclose(found.outputs["logits"], serving.answers(X, 0), atol=1e-4)


def test_answers_do_not_depend_on_batch_mates(server: Server) -> None:
    x = serving.samples(8, 3)
    _, together = server.infer(x)
    alone = np.concatenate([server.infer(one[None])[1] for one in x])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def entry(**changes: Any) -> dict[str, Any]:
    return {"name": "input", "datatype": "FP32", "shape": [1, 1, 4, 4], "data": [0.0] * 16} | changes


BAD = {
    "not JSON": b"{",
    "exactly one": {"inputs": []},
    "expected input": {"inputs": [entry(name="image")]},
    "samples have shape": {"inputs": [entry(shape=[1, 4, 1, 4])]},
    "dimensions": {"inputs": [entry(shape=[1, 16])]},
    "no output is called": {"inputs": [entry()], "outputs": [{"name": "probabilities"}]},
    "id is": {"inputs": [entry()], "id": "x" * 600},
}


@pytest.mark.parametrize("words", BAD)
def test_a_bad_request_is_answered_with_400_and_the_reason(server: Server, words: str) -> None:
    bad = BAD[words]
    content = bad if isinstance(bad, bytes) else json.dumps(bad).encode()
    response = server.http.post("/v2/models/tiny/infer", content=content)
    assert response.status_code == 400
    assert words in response.json()["error"]
    assert (server.stats()["failed"], server.stats()["refused"]) == (0, 1)


def test_a_request_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with serving_tiny(tmp_path, max_body_bytes=100) as server:
        response = server.http.post("/v2/models/tiny/infer", content=bytes(101))
        assert response.status_code == 400 and "larger than 100 bytes" in response.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v2/models/tiny/infer", 405),
        ("GET", "/v2/models/other", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/tiny/versions/9/infer", 404),
        ("GET", "/v2/models/tiny/versions/9/ready", 404),
        ("POST", "/v2/repository/models/other/load", 404),
    ],
)
def test_what_is_not_there_is_said_in_json(server: Server, method: str, path: str, status: int) -> None:
    body = json.dumps({"inputs": [entry()]}).encode() if method == "POST" else None
    response = server.http.request(method, path, content=body)
    assert response.status_code == status
    assert response.json()["error"]


def test_a_failing_model_is_500_and_counted(tmp_path: Path) -> None:
    class Broken:
        def __init__(self, good: Session) -> None:
            self.get_inputs, self.get_outputs = good.get_inputs, good.get_outputs

        def run(self, outputs: object, feeds: object) -> Any:
            raise RuntimeError("out of memory")

    with serving_tiny(tmp_path) as server:
        server.pair.stage(1, Broken(server.pair.current()[1]))
        body, _ = oip.encode(oip.Body({"input": X}), binary=False)
        response = server.http.post("/v2/models/tiny/versions/1/infer", content=body)
        assert response.status_code == 500 and "out of memory" in response.json()["error"]
        assert server.stats()["failed"] == 1


def test_a_load_switches_or_only_stands_by(server: Server) -> None:
    first = server.graphs.add(1)
    assert server.load("1", activate=False, sha256=first.sha256).status_code == 200
    assert server.index() == {"0": "live", "1": "standby"}
    assert server.infer()[0] == "0"
    version, logits = server.infer(path="/versions/1")
    assert version == "1"
    np.testing.assert_allclose(logits, serving.answers(X, 1), atol=1e-4)
    assert server.load(1).status_code == 200
    assert server.index() == {"1": "live", "0": "previous"}
    assert server.infer()[0] == "1"
    server.graphs.add(2)
    assert server.load("2", activate=False).status_code == 200
    assert server.index() == {"1": "live", "2": "standby", "0": "previous"}
    assert server.http.get("/v2/models/tiny").json()["versions"] == ["1", "2"]
    assert server.http.post("/v2/repository/models/tiny/load").status_code == 200, "nothing to do"
    assert (server.stats()["live"], server.stats()["previous"]) == (1, 0)


def test_a_failed_load_leaves_everything_as_it_was(server: Server) -> None:
    server.graphs.add(1)
    server.load("1", activate=False)
    server.graphs.add(2, b"junk")
    server.graphs.add(3).path.write_bytes(b"changed")
    server.graphs.add(4, shape=(1, 5, 5))
    server.graphs.add(5)
    before = server.index()
    failures = {
        404: [server.load("99")],
        400: [server.load("x"), server.load("5", sha256="0" * 64), server.load("5", activate=1)],
        500: [server.load("2"), server.load("3"), server.load("4")],
    }
    for status, responses in failures.items():
        for response in responses:
            assert response.status_code == status and response.json()["error"]
    response = server.http.post("/v2/repository/models/tiny/load", content=b"[1]")
    assert response.status_code == 400
    assert server.index() == before
    assert server.infer()[0] == "0"
    assert server.infer(path="/versions/1")[0] == "1"


def test_no_request_fails_while_versions_are_swapped(tmp_path: Path) -> None:
    last, wrong, seen = 12, [], set()
    done = threading.Event()

    def ask(base_url: httpx.URL, seed: int) -> None:
        x = serving.samples(3, seed)
        body, length = oip.encode(oip.Body({"input": x}, parameters={"binary_data_output": True}))
        with httpx.Client(base_url=base_url, timeout=30, trust_env=False) as http:
            while not done.is_set():
                response = http.post(
                    "/v2/models/tiny/infer", content=body, headers={oip.HEAD_LENGTH: str(length)}
                )
                answer = oip.decode(response.content, None)
                number = int(answer.version or -1)
                seen.add(number)
                gap = np.abs(answer.outputs["logits"] - serving.answers(x, number)).max()
                if response.status_code != 200 or number not in range(last + 1) or gap > 1e-2:
                    wrong.append((response.status_code, number, gap))

    with serving_tiny(tmp_path) as server:
        clients = [threading.Thread(target=ask, args=(server.http.base_url, seed)) for seed in range(4)]
        for client in clients:
            client.start()
        serving.eventually(
            lambda: 0 in seen
        )  # twelve swaps take less time than four threads may need to start
        for number in range(1, last + 1):
            if number % 4 == 0:
                server.graphs.add(100 + number, b"junk")
                assert server.load(100 + number).status_code == 500
            server.graphs.add(number)
            assert server.load(number).status_code == 200
        serving.eventually(lambda: last in seen)
        done.set()
        for client in clients:
            client.join()
        stats = server.stats()
    assert not wrong and {0, last} <= seen
    assert (stats["failed"], stats["refused"], stats["live"]) == (0, 0, last)
    assert stats["requests"] > 0 and stats["p99_ms"] >= stats["p50_ms"] > 0


def test_percentiles_are_over_a_bounded_window() -> None:
    stats = Stats()
    assert stats.snapshot()["p99_ms"] is None
    for i in range(10_000):
        stats.count(200, i / 1e3)
    stats.count(500, 1.0)
    stats.count(404, 1.0)
    found = stats.snapshot()
    assert (found["requests"], found["failed"], found["refused"]) == (10_002, 1, 1)
    assert found["window"] < 10_000 and found["p50_ms"] > 5000


def test_the_tap_logs_what_was_asked_and_answered(tmp_path: Path) -> None:
    producer = serving.FakeProducer()
    tap = Tap(producer, CloudEvents(), "inferences", "tiny")
    with serving_tiny(tmp_path, tap=tap) as server:
        _, logits = server.infer(traceparent=TRACE, tta_entity="camera 7")
        server.infer(tta_probe="1")
        serving.eventually(lambda: server.stats()["tap"]["sent"] == 1)
        assert server.stats()["requests"] == 1, "probes are ours and not counted"
    assert producer.flushed == 1, "the end of the server flushes"
    ((topic, key, value, headers),) = producer.sent
    record = RawRecord(topic, 0, 0, 0, key, value, headers)
    found = CloudEvents().decode(record, serving.SHAPE, serving.CLASSES)
    assert topic == "inferences" and len(found) == 2
    for i, item in enumerate(found):
        assert isinstance(item, Record) and item.served is not None
        assert (item.version, item.key, item.traceparent) == (0, "camera 7", TRACE)
        np.testing.assert_array_equal(item.x, X[i])
        np.testing.assert_array_equal(item.served, logits[i])


def test_a_tap_that_is_stuck_or_fails_harms_no_request(tmp_path: Path) -> None:
    producer = serving.FakeProducer()
    producer.gate.clear()
    tap = Tap(producer, CloudEvents(), "t", "tiny", capacity_bytes=5000, close_timeout_s=10)
    with serving_tiny(tmp_path, tap=tap) as server:
        for _ in range(20):
            server.infer()
        counts = server.stats()["tap"]
        assert counts["dropped"] >= 15 and counts["queued_bytes"] <= 5000 and counts["sent"] == 0
        assert server.stats()["failed"] == 0
        producer.fails = True
        producer.gate.set()
        serving.eventually(lambda: server.stats()["tap"]["queued"] == 0)
        server.infer()
        serving.eventually(lambda: server.stats()["tap"]["errors"] == 21 - counts["dropped"])
        producer.fails = False
        server.infer()
        serving.eventually(lambda: server.stats()["tap"]["sent"] == 1)


def test_close_sends_what_waits_and_then_nothing_is_taken() -> None:
    producer = serving.FakeProducer()
    producer.gate.clear()
    tap = Tap(producer, CloudEvents(), "t", "tiny")
    for i in range(10):
        assert tap.record(X, serving.answers(X, 0), id=str(i), version=0)
    producer.gate.set()
    tap.close()
    tap.close()
    assert [key for _, key, _, _ in producer.sent] == [str(i).encode() for i in range(10)]
    assert producer.flushed == 1
    assert not tap.record(X, serving.answers(X, 0), id="late", version=0)
    assert tap.counts()["dropped"] == 1


def test_close_does_not_wait_for_ever() -> None:
    producer = serving.FakeProducer()
    producer.gate.clear()
    tap = Tap(producer, CloudEvents(), "t", "tiny", close_timeout_s=0.01)
    tap.record(X, serving.answers(X, 0), id="a", version=0)
    tap.close()
    producer.gate.set()
    serving.eventually(lambda: producer.flushed == 1)


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
from tests.parts import serving
from tta_agent.serving.server.app import make_app, serve
from tta_agent.tap import Tap
from tta_agent.models.ort_sessions import HotSwapSession, open_session, open_version
from tta_agent.stream.codecs.cloudevents import CloudEvents

class Printer(serving.FakeProducer):
    def flush(self):
        print("flushed", len(self.sent), flush=True)

graphs = serving.GraphFolder(Path(sys.argv[2]))
pair = HotSwapSession(0, open_version(graphs.add(0), open_session))
serve(make_app("tiny", pair, graphs.find, tap=Tap(Printer(), CloudEvents(), "t", "tiny")), port=int(sys.argv[3]))
"""


def test_a_process_that_is_told_to_stop_flushes_its_tap(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = Path(__file__).parent
    command = [sys.executable, "-c", SCRIPT, str(here), str(tmp_path), str(port)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=here.parent) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http,
    ):
        server = Server(
            http, serving.GraphFolder(tmp_path), HotSwapSession(0, open_session(serving.graph_bytes(0)))
        )
        serving.eventually(lambda: answers_at(http), timeout_s=60)
        server.infer()
        process.terminate()
        assert process.communicate(timeout=30)[0] == "flushed 1\n"


def answers_at(http: httpx.Client) -> bool:
    try:
        return http.get("/v2/health/ready").is_success
    except httpx.TransportError:
        return False
