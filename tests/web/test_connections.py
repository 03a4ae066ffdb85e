"""Limits of connections, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.parts.serving import eventually
from tta_agent.web.connections import ConnectionPhase, LimitedProtocol, Limits
from tta_agent.web.server import ServerThread, listen

HALF = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Some"
WHOLE = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
BODY = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nsome"


class World:
    """A server that can be told to be slow, and its clients."""

    def __init__(self, limits: Limits, stack: ExitStack) -> None:
        self.go, self.begun, self._stack = threading.Event(), 0, stack
        routes = [
            Route("/", self._quick, methods=["GET", "POST"]),
            Route("/slow", self._slow),
            Route("/large", self._large),
        ]
        self.server = ServerThread(
            Starlette(routes=routes), listen("127.0.0.1", 0, "T_"), "127.0.0.1", limits
        )
        stack.callback(self.server.close)
        stack.callback(self.go.set)

    async def _quick(self, request: Request) -> Response:
        with contextlib.suppress(ClientDisconnect):
            await request.body()
        return PlainTextResponse("here")

    async def _slow(self, request: Request) -> Response:
        self.begun += 1
        while not self.go.is_set():
            await asyncio.sleep(0.005)
        return PlainTextResponse("at last")

    async def _large(self, request: Request) -> Response:
        return PlainTextResponse("x" * (32 << 20))

    def client(self, sends: bytes = b"") -> socket.socket:
        """A connection that has sent something."""
        client = self._stack.enter_context(socket.create_connection(("127.0.0.1", self.server.port), 10))
        client.sendall(sends)
        return client

    def connections(self) -> list[LimitedProtocol]:
        """Open ones, as the server sees them."""
        state = self.server._server.server_state
        return [one for one in list(state.connections) if isinstance(one, LimitedProtocol)]

    def get(self, path: str = "/") -> httpx.Response:
        return httpx.get(self.server.url + path, timeout=10, trust_env=False)


@contextmanager
def world_of(limits: Limits) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(limits, stack)


def until(text: bytes, client: socket.socket) -> bytes:
    """All that comes, as far as the text."""
    found = b""
    while text not in found and (piece := client.recv(65536)):
        found += piece
    return found


def heard(client: socket.socket) -> bytes:
    """All that comes until the end of the connection; raises TimeoutError where it does not end."""
    pieces = []
    try:
        while piece := client.recv(65536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


@contextmanager
def trickling(client: socket.socket) -> Iterator[None]:
    """The client sends a byte now and then."""
    over = threading.Event()

    def trickle() -> None:
        with contextlib.suppress(OSError):
            while not over.wait(0.02):
                client.sendall(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("sends", [b"", HALF, BODY], ids=["nothing", "half a head", "half a body"])
def test_a_flood_of_one_client_keeps_nobody_out(sends: bytes) -> None:
    with world_of(Limits(16, 8)) as world:
        flood = [world.client(sends) for _ in range(40)]
        assert world.get().text == "here"
        assert heard(flood[0]) == b"", "the one that has been waited for longest has made room"


def test_heads_make_room_before_bodies_and_the_oldest_first() -> None:
    with world_of(Limits(16, 4)) as world:
        body, first, second, third = (world.client(sends) for sends in (BODY, HALF, HALF, HALF))
        eventually(lambda: [one.phase for one in world.connections()].count(ConnectionPhase.BODY) == 1)
        fourth, _ = world.client(HALF), world.client(HALF)
        assert heard(first) == heard(second) == b""
        body.sendall(bytes(996))
        assert b"here" in until(b"here", body)
        for one in (third, fourth):
            one.sendall(b": x\r\n\r\n")
            assert b"here" in until(b"here", one)


def test_who_is_worked_for_is_never_dropped() -> None:
    with world_of(Limits(16, 4)) as world:
        asked = WHOLE.replace(b"GET /", b"GET /slow", 1)
        clients = [world.client(asked) for _ in range(4)]
        eventually(lambda: world.begun == 4)
        with pytest.raises(httpx.TransportError):
            world.get()
        world.go.set()
        assert all(b"at last" in until(b"at last", client) for client in clients)


def test_other_clients_have_room_of_their_own() -> None:
    with world_of(Limits(16, 4)) as world:
        slow = WHOLE.replace(b"GET /", b"GET /slow", 1)
        _ = [world.client(slow) for _ in range(4)]
        eventually(lambda: world.begun == 4)
        other = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(transport=other, base_url=world.server.url, timeout=10) as http:
            assert http.get("/").text == "here"


def test_all_clients_together_have_a_limit() -> None:
    with world_of(Limits(6, 4)) as world:
        first = [world.client(HALF) for _ in range(3)]
        other = socket.create_connection(
            ("127.0.0.1", world.server.port), 10, source_address=("127.0.0.2", 0)
        )
        with other:
            other.sendall(HALF)
            more = [
                socket.create_connection(
                    ("127.0.0.1", world.server.port), 10, source_address=("127.0.0.3", 0)
                )
                for _ in range(3)
            ]
            assert heard(first[0]) == b""
            for one in more:
                one.close()


@pytest.mark.parametrize(("sends", "answer"), [(HALF, b"408"), (b"", b"")])
def test_a_head_has_its_time(sends: bytes, answer: bytes) -> None:
    with world_of(Limits(head_s=0.2)) as world:
        client = world.client(sends)
        assert answer in heard(client)[:12]


def test_a_head_that_trickles_has_no_more_time() -> None:
    with world_of(Limits(head_s=0.3)) as world:
        client = world.client(HALF)
        with trickling(client):
            assert b"408" in heard(client)


def test_a_second_request_has_its_time_too() -> None:
    with world_of(Limits(head_s=0.2)) as world:
        client = world.client(WHOLE)
        assert b"here" in until(b"here", client)
        client.sendall(HALF)
        assert b"408" in heard(client)


def test_what_follows_an_answer_without_end_has_no_more_time() -> None:
    """A body for a request that was answered before it came, a byte at a time."""
    with world_of(Limits(head_s=0.3)) as world:
        client = world.client(BODY.replace(b"POST /", b"POST /nowhere", 1))
        with trickling(client):
            assert b"404" in heard(client)


def test_a_client_that_does_not_read_is_left() -> None:
    with world_of(Limits(write_s=0.2)) as world:
        client = world.client(WHOLE.replace(b"GET /", b"GET /large", 1))
        client.recv(100)
        eventually(lambda: not world.connections())


def test_answers_that_nobody_reads_do_not_take_the_memory() -> None:
    asked = WHOLE.replace(b"GET /", b"GET /large", 1)
    with world_of(Limits(unread_bytes=80 << 20)) as world:
        clients = []
        for _ in range(8):
            clients.append(world.client(asked))
            clients[-1].recv(1000)
        eventually(lambda: len(world.connections()) == 2)
        assert len(heard(clients[0])) < 32 << 20
        last = clients[-1]
        size = 0
        while size < (32 << 20) - 1000:
            size += len(last.recv(1 << 20))
    with world_of(Limits(unread_bytes=1)) as world:
        assert len(world.get("/large").text) == 32 << 20, "a single one is no flood"


def test_requests_one_after_the_other_and_at_once_are_answered() -> None:
    with world_of(Limits(head_s=0.2)) as world:
        with httpx.Client(base_url=world.server.url, timeout=10, trust_env=False) as http:
            assert [http.get("/").text for _ in range(50)] == ["here"] * 50
        client = world.client(WHOLE * 3)
        found = b""
        while found.count(b"here") < 3:
            found += client.recv(65536)


def test_there_are_fewer_connections_than_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    try:
        assert Limits.of(512) == Limits(172, 86)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert Limits.of(100) == Limits(100, 50)
