"""What one client may cost the others: memory, workers, time."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.exceptions import HTTPException

from tests.parts import serving
from tests.serving.test_server import Server, serving_tiny
from tta_agent.models.ort_sessions import Session
from tta_agent.serving.server import admission
from tta_agent.serving.server.admission import Budget, Turns
from tta_agent.stream.codecs import oip

SERVER = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from pathlib import Path
from tests.parts import serving
from tta_agent.models.ort_sessions import HotSwapSession, open_session, open_version
from tta_agent.serving.server.app import make_app, serve
graphs = serving.GraphFolder(Path(sys.argv[1]))
pair = HotSwapSession(0, open_version(graphs.add(0), open_session))
serve(make_app("tiny", pair, graphs.find), port=int(sys.argv[2]))
"""


class Process:
    """The server in a process of its own that may open 1,024 files."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.port = process, port
        self.url = f"http://127.0.0.1:{port}"

    def infer(self) -> int:
        """Status of a small request."""
        body, length = oip.encode(oip.Body({"input": serving.samples(1)}))
        with httpx.Client(base_url=self.url, timeout=20, trust_env=False) as http:
            return http.post(
                "/v2/models/tiny/infer", content=body, headers={oip.HEAD_LENGTH: str(length)}
            ).status_code

    def memory_mb(self, which: str) -> float:
        """VmRSS: resident now; VmHWM: the most so far."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 1024


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SERVER, str(tmp_path), str(port)]
    with subprocess.Popen(command, cwd=Path(__file__).parent.parent.parent) as process:
        started = Process(process, port)
        serving.eventually(lambda: _lives(started.url), 60)
        yield started
        process.kill()


def _lives(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/health/live", trust_env=False).is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    "sends",
    [
        b"GET /v2 HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: ",
        b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999\r\n\r\n{",
    ],
    ids=["half a head", "half a body"],
)
def test_more_open_connections_than_files_stop_nobody(server: Process, sends: bytes) -> None:
    with ExitStack() as stack:
        for _ in range(1100):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
            client.sendall(sends)
        for _ in range(5):
            assert _lives(server.url)
            assert server.infer() == 200


@pytest.mark.parametrize("kind", ["binary", "json"])
def test_large_bodies_at_once_do_not_take_the_memory(server: Process, kind: str) -> None:
    """16 times 60 MiB took 0.8 GB as raw bytes, 2.4 GB as JSON."""
    head, bytes_ = (b"{}", 60 << 20) if kind == "binary" else (b'{"inputs":[{"data":[', 60 << 20)
    body = head + (bytes(bytes_) if kind == "binary" else b"0.5," * (bytes_ // 4)) + b"0.5]}]}"
    headers = {oip.HEAD_LENGTH: "2"} if kind == "binary" else {}
    before, statuses = server.memory_mb("VmRSS"), []

    def send() -> None:
        with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as http:
            found = http.post("/v2/models/tiny/infer", content=body, headers=headers)
            statuses.append((found.status_code, found.headers.get("retry-after")))

    senders = [threading.Thread(target=send) for _ in range(16)]
    for sender in senders:
        sender.start()
    assert server.infer() == 200
    for sender in senders:
        sender.join()
    assert set(statuses) <= {(400, None), (413, None), (503, "1")} and (503, "1") in statuses
    assert server.memory_mb("VmHWM") - before < 400


def test_a_batch_has_a_largest_size(tmp_path: Path) -> None:
    with serving_tiny(tmp_path, max_batch=8) as server:
        assert len(server.infer(serving.samples(8))[1]) == 8
        for size in (9, 5000):
            body, length = oip.encode(oip.Body({"input": serving.samples(size)}))
            found = server.http.post(
                "/v2/models/tiny/infer", content=body, headers={oip.HEAD_LENGTH: str(length)}
            )
            assert found.status_code == 413
            assert "the largest batch is 8 (TTA_SERVE__MAX_BATCH)" in found.json()["error"]


def test_a_body_that_does_not_come_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "PAUSE_S", 0.2)
    with serving_tiny(tmp_path) as server:
        with socket.create_connection(
            (server.http.base_url.host, server.http.base_url.port or 0), 10
        ) as client:
            client.sendall(
                b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{"
            )
            answer = client.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 408") and b"did not come" in answer
        assert server.infer()[0] == "0"


def test_a_body_that_trickles_has_a_time_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "BODY_S", 0.4)

    def trickle() -> Iterator[bytes]:
        for _ in range(1000):
            yield b" "
            threading.Event().wait(0.02)

    with serving_tiny(tmp_path) as server:
        headers = {"content-length": "1000"}
        assert (
            server.http.post("/v2/models/tiny/infer", content=trickle(), headers=headers).status_code == 408
        )


def test_json_is_refused_where_it_would_never_fit(tmp_path: Path) -> None:
    entry = {"name": "input", "datatype": "FP32", "shape": [100, 1, 4, 4], "data": [0.5] * 1600}
    body = json.dumps({"inputs": [entry]}).encode()
    with serving_tiny(tmp_path, memory_bytes=40_000) as server:
        found = server.http.post("/v2/models/tiny/infer", content=body)
        assert found.status_code == 413 and "raw bytes" in found.json()["error"]
        assert server.infer(serving.samples(100))[0] == "0"


class Client:
    """A request at the gate: its share, and how it ended."""

    def __init__(self, budget: Budget) -> None:
        self.status = 0
        self._budget, self._go = budget, asyncio.Event()
        self._takes: asyncio.Queue[int | None] = asyncio.Queue()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            async with self._budget.share() as share:
                while count := await self._takes.get():
                    share._take(count)
                share.begin()
                await self._go.wait()
            self.status = 200
        except HTTPException as error:
            self.status = error.status_code

    async def takes(self, count: int | None) -> None:
        """So many bytes more; None: all are there."""
        self._takes.put_nowait(count)
        for _ in range(5):
            await asyncio.sleep(0)

    async def ends(self) -> int:
        """Status of the answer."""
        self._go.set()
        await self.task
        return self.status


def run(scenario: object) -> None:
    asyncio.run(scenario)  # type: ignore[arg-type]


def test_the_largest_that_waits_makes_room_for_a_small_one() -> None:
    async def scenario() -> None:
        budget = Budget(100)
        small, large, medium = Client(budget), Client(budget), Client(budget)
        await large.takes(60)
        await medium.takes(30)
        await small.takes(20)
        assert budget.used == 50
        await asyncio.sleep(0.01)
        assert (large.status, medium.status, small.status) == (503, 0, 0)
        await small.takes(None)
        await medium.takes(None)
        assert (await small.ends(), await medium.ends()) == (200, 200)
        assert budget.used == 0

    run(scenario())


def test_what_has_begun_is_carried_through_and_the_large_newcomer_is_refused() -> None:
    async def scenario() -> None:
        budget = Budget(100)
        begun, waits, newcomer = Client(budget), Client(budget), Client(budget)
        await begun.takes(60)
        await begun.takes(None)
        await waits.takes(20)
        await newcomer.takes(30)
        assert newcomer.status == 503
        await waits.takes(None)
        assert (await begun.ends(), await waits.ends()) == (200, 200)

    run(scenario())


def test_a_request_that_could_never_fit_is_told_so() -> None:
    async def scenario() -> None:
        client = Client(Budget(100))
        await client.takes(101)
        assert await client.ends() == 413

    run(scenario())


async def turns_of(sizes: list[int], workers: int = 1) -> list[int]:
    """The order in which requests of these sizes, sent one after the other, get the workers."""
    turns, order, go = Turns(workers), [], asyncio.Event()

    async def ask(number: int, size: int) -> None:
        async with turns.turn(size):
            order.append(number)
            await go.wait()

    tasks = [asyncio.create_task(ask(number, size)) for number, size in enumerate(sizes)]
    await asyncio.sleep(0.01)
    assert len(order) == min(workers, len(sizes))
    go.set()
    await asyncio.gather(*tasks)
    return order


def test_small_requests_overtake_large_ones_and_equal_ones_keep_their_order() -> None:
    mib = 1 << 20
    assert asyncio.run(turns_of([mib, 64 * mib, 64 * mib, 100, 3 * mib, 100])) == [0, 3, 5, 4, 1, 2]
    assert asyncio.run(turns_of([10] * 6, workers=2)) == list(range(6))


def test_a_large_request_is_not_overtaken_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "OVERTAKEN_BYTES_PER_S", 1e15)
    assert asyncio.run(turns_of([1, 64 << 20, 1, 1])) == [0, 1, 2, 3]


def test_a_turn_that_is_given_up_goes_to_the_next() -> None:
    async def scenario() -> None:
        turns, order = Turns(1), []

        async def ask(number: int) -> None:
            async with turns.turn(0):
                order.append(number)

        first = turns.turn(0)
        await first.__aenter__()
        tasks = [asyncio.create_task(ask(number)) for number in range(4)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        await asyncio.sleep(0.01)
        await first.__aexit__(None, None, None)
        tasks[1].cancel()  # in the moment in which its turn has come
        await asyncio.wait(tasks, timeout=10)
        assert order == [2, 3] and turns._free == 1

    run(scenario())


class Slow:
    """A session that says when it is asked, and answers when it may."""

    def __init__(self, session: Session) -> None:
        self.get_inputs, self.get_outputs, self._run = session.get_inputs, session.get_outputs, session.run
        self.asked, self.go = threading.Event(), threading.Event()

    def run(self, outputs: Any, feeds: Any) -> Any:
        self.asked.set()
        self.go.wait(10)
        return self._run(outputs, feeds)


def test_a_request_of_a_client_that_has_gone_is_not_computed(tmp_path: Path) -> None:
    with serving_tiny(tmp_path, threads=1) as server:
        slow = Slow(server.pair.current()[1])
        server.pair.stage(1, slow)
        body, length = oip.encode(oip.Body({"input": serving.samples(1)}))
        with httpx.Client(base_url=server.http.base_url, timeout=30, trust_env=False) as other:
            ahead = Server(other, server.graphs, server.pair)
            thread = threading.Thread(target=lambda: ahead.infer(serving.samples(1), "/versions/1"))
            thread.start()
            assert slow.asked.wait(10)
            head = (
                f"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: 127.0.0.1\r\n{oip.HEAD_LENGTH}: {length}\r\n"
            )
            for _ in range(3):
                with socket.create_connection(("127.0.0.1", server.http.base_url.port or 0), 10) as client:
                    client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            for _ in range(5):  # until the server has heard that they have gone
                server.stats()
            slow.go.set()
            thread.join()
        serving.eventually(lambda: server.stats()["requests"] == 4)
        assert server.stats()["refused"] == 3
