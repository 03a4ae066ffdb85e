"""The examples for plugins: each keeps the contract of its kind."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from tests.docs.test_snippets import snippet
from tta_agent import testing
from tta_agent.core.drift import DriftDetector
from tta_agent.core.errors import DecodeError, SwapError
from tta_agent.core.evidence import Evidence
from tta_agent.core.protocols import ServerDriver
from tta_agent.core.types import Golden, RawRecord, ServerInfo, Version
from tta_agent.models.onnx_export import GraphTemplate
from tta_agent.models.ort_sessions import open_session, run
from tta_agent.serving.swap import bring_up


def example(name):
    names = {}
    exec(snippet("extending.md", f"class {name}"), names)
    return names[name]


@pytest.mark.parametrize("check", testing.ADAPTER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", ["batch", "group", "layer"])
def test_the_adapter(check, kind):
    check(example("Confident"), testing.tiny_net(kind))


def test_the_gate():
    gate = example("Rare")(window=6)
    both, one = np.eye(3)[[0, 1, 2, 0, 1, 2]], np.eye(3)[[0, 1, 0, 1, 0, 1]]
    assert gate.watches
    assert gate.judge(Evidence(both[:5], both[:5], 0, 0, 0, 0.01)).verdict == "inconclusive"
    assert gate.judge(Evidence(both, both, 0, 0, 0, 0.01)).verdict == "pass"
    assert gate.judge(Evidence(both, one, 0, 0, 0, 0.01)).verdict == "fail"


def test_the_wire_format():
    codec = example("Frames")()
    body = {"camera": "c7", "frame": 12, "pixels": list(range(16))}
    raw = RawRecord("inference", 0, 5, 2500, None, json.dumps(body).encode())
    (record,) = codec.decode(raw, (1, 4, 4), 3)
    assert codec.recognises(raw)
    assert (record.id, record.key, record.time_s, record.x.shape) == ("c7-12", "c7", 2.5, (1, 4, 4))
    with pytest.raises(DecodeError, match="the frame cannot be read"):
        codec.decode(RawRecord("inference", 0, 5, 0, None, b'{"pixels": [1]}'), (1, 4, 4), 3)


class Server(ThreadingHTTPServer):
    """The model server of the example, on ONNX Runtime."""

    def __init__(self, session):
        super().__init__(("127.0.0.1", 0), Handler)
        self.sessions, self.live = {0: session}, 0

    def answer(self, call, version=0, x=(), **body):
        if call == "/load":
            self.sessions[version] = open_session(body["path"])
        elif call == "/predict":
            return run(self.sessions[version], np.asarray(x, np.float32)).tolist()
        elif call == "/use":
            self.live = version
        return self.live


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = json.dumps(self.server.answer(self.path, **body)).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.fixture
def versions(tmp_path):
    """Version 1 with the answers that it must give, and the session of version 0."""
    net, other = testing.tiny_net("batch"), testing.tiny_net("batch", seed=1)
    template = GraphTemplate(net, (1, 8, 8))
    path = tmp_path / "model.onnx"
    path.write_bytes(template.compose(other))
    golden = Golden(template.fixed, run(open_session(path), template.fixed))
    return Version(1, "", path, "certified"), golden, open_session(template.compose(net))


@pytest.fixture
def server(versions):
    with Server(versions[2]) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def test_the_server_driver(server, versions):
    version, golden, _ = versions
    driver: ServerDriver = example("Reload")(
        ServerInfo(f"http://127.0.0.1:{server.server_port}", "model", 5.0)
    )
    driver.probe()
    bring_up(driver, version, golden)
    assert driver.live() == server.live == 1
    driver.rollback()
    assert driver.live() == 0
    wrong = Golden(golden.x, golden.logits + 1)
    with pytest.raises(SwapError, match="differs from the golden logits"):
        driver.publish(version, wrong)
    assert driver.live() == 0
    driver.close()


def test_the_drift_detector():
    detector: DriftDetector = example("Colours")()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(640, 3, 4, 4, generator=generator).numpy()
    logits = np.zeros((640, 2), np.float32)
    features = detector.features(logits, x)
    assert features.shape == (640, 3)
    assert detector.update(features).ended is None
    redder = x + np.array([2.0, 0.0, 0.0]).reshape(3, 1, 1)
    assert detector.update(detector.features(logits, redder)).ended is not None
