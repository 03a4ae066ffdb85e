"""The end of the embedded server: in a process of its own, told to stop."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.parts import serving
from tests.serving.test_server import answers_at
from tta_agent.stream.codecs import oip
from tta_agent.web.drain import Drain

# Version 0 answers at once, version 1 when the file `go` is there.
SCRIPT = """
import sys, time
from pathlib import Path
from tests.parts import serving
from tta_agent.models.ort_sessions import HotSwapSession, open_session
from tta_agent.serving.server.app import make_app, serve
folder, port, drain_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
class Slow:
    def __init__(self, session):
        self.get_inputs, self.get_outputs, self._run = session.get_inputs, session.get_outputs, session.run
    def run(self, outputs, feeds):
        while not (folder / "go").exists():
            time.sleep(0.005)
        return self._run(outputs, feeds)
graphs = serving.GraphFolder(folder)
pair = HotSwapSession(0, open_session(graphs.add(0).path))
pair.stage(1, Slow(open_session(graphs.add(1).path)))
serve(make_app("tiny", pair, graphs.find, drain_s=drain_s), port=port)
print("ended", flush=True)
"""


@dataclass
class Ending:
    """A server that can be told to stop."""

    process: subprocess.Popen[str]
    url: str
    folder: Path

    def infer(self, path: str = "", http: httpx.Client | None = None) -> httpx.Response:
        body, length = oip.encode(oip.Body({"input": serving.samples(1)}))
        post = http.post if http else httpx.Client(timeout=30, trust_env=False).post
        return post(
            f"{self.url}/v2/models/tiny{path}/infer", content=body, headers={oip.HEAD_LENGTH: str(length)}
        )

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, trust_env=False)

    def ended(self) -> bool:
        return self.process.communicate(timeout=30)[0] == "ended\n" and self.process.returncode == 0


@contextmanager
def ending(folder: Path, drain_s: float) -> Iterator[Ending]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SCRIPT, str(folder), str(port), str(drain_s)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        made = Ending(process, f"http://127.0.0.1:{port}", folder)
        try:
            with httpx.Client(base_url=made.url, trust_env=False) as http:
                serving.eventually(lambda: answers_at(http), 60)
            yield made
        finally:
            process.kill()


def test_what_is_in_progress_is_answered_and_meanwhile_it_is_not_ready(tmp_path: Path) -> None:
    with ending(tmp_path, 0) as server, ThreadPoolExecutor(1) as pool, httpx.Client(trust_env=False) as kept:
        assert "connection" not in server.infer(http=kept).headers
        slow = pool.submit(server.infer, "/versions/1")
        serving.eventually(lambda: server.get("/v2/stats").json()["active"] == 1)
        server.process.terminate()
        serving.eventually(lambda: server.get("/v2/health/ready").status_code == 503)
        assert server.get("/v2/health/ready").json() == {"ready": False}
        assert server.get("/v2/models/tiny/ready").status_code == 503
        assert server.get("/v2/health/live").status_code == 200
        late = server.infer(http=kept)
        assert late.status_code == 200 and late.headers["connection"] == "close", (
            "it goes elsewhere next time"
        )
        (tmp_path / "go").touch()
        assert slow.result().status_code == 200
        assert server.ended()


def test_it_goes_on_answering_for_the_time_that_it_is_told(tmp_path: Path) -> None:
    with ending(tmp_path, 1.0) as server:
        server.process.terminate()
        serving.eventually(lambda: server.get("/v2/health/ready").status_code == 503)
        assert server.infer().status_code == 200
        assert server.ended()


@pytest.mark.parametrize("signals", [[signal.SIGTERM] * 2, [signal.SIGINT]])
def test_a_second_signal_does_not_wait(tmp_path: Path, signals: list[signal.Signals]) -> None:
    with ending(tmp_path, 500) as server:
        for number in signals:
            server.process.send_signal(number)
            if len(signals) > 1:
                serving.eventually(lambda: server.process.poll() is not None or not answers(server))
        server.process.wait(30)


def answers(server: Ending) -> bool:
    try:
        return server.get("/v2/health/ready").is_success
    except httpx.TransportError:
        return False


def test_a_request_that_does_not_end_does_not_hold_the_server_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = {"now_s": 100.0}
    monkeypatch.setattr(time, "monotonic", lambda: clock["now_s"])
    drain = Drain(5, 10)
    with drain.request():
        drain.begin()
        with drain.request():
            assert drain.active == 2
        for clock["now_s"], over in ((100.0, False), (114.9, False), (115.0, True)):
            assert drain.over == over
    clock["now_s"] = 104.9
    assert not drain.over
    clock["now_s"] = 105.0
    with drain.request():
        assert drain.over, "a request that came later is left to the end of the server"
