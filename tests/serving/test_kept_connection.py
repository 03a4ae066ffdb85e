"""A server that closes its connection after an answer: the client's next call is made again."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tta_agent.core.errors import SwapError
from tta_agent.core.types import ServerInfo
from tta_agent.serving.clients.kube import Kind, KubeResource
from tta_agent.serving.clients.rest import OipClient

ANSWER = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 18\r\n\r\n{"extensions": []}'


class Server:
    """Answers requests, one for each word: `keep` the connection after it, or `drop` it instead of an answer."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words, self.requests = list(words), 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while self.words:
            connection, _ = self._socket.accept()
            with connection:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        while self.words and connection.recv(65536):
            self.requests += 1
            if self.words.pop(0) == "drop":  # with a reset, as of a process that went away
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            connection.sendall(ANSWER)


@contextmanager
def serving(*words: str) -> Iterator[tuple[Server, OipClient]]:
    with closing(Server(words)) as server, closing(OipClient(ServerInfo(server.url, "m", 10))) as client:
        yield server, client


def test_a_call_on_a_closed_connection_is_made_again() -> None:
    with serving("keep", "drop", "keep") as (server, client):
        assert list(client.extensions()) == []
        assert list(client.extensions()) == []
        assert server.requests == 3


def test_so_is_one_to_the_api_server_of_kubernetes(tmp_path: Path) -> None:
    for name in ("token", "namespace"):
        (tmp_path / name).write_text("tta")
    with closing(Server(["keep", "drop", "keep"])) as server:
        kind = Kind("InferenceService", "serving.kserve.io", "v1beta1", "inferenceservices")
        with closing(KubeResource(kind, "m", api=server.url, account=str(tmp_path))) as resource:
            assert resource.get() == resource.get() == {"extensions": []}
        assert server.requests == 3


def test_a_server_that_drops_each_call_is_said_not_to_answer() -> None:
    with serving("drop", "drop") as (server, client):
        with pytest.raises(SwapError, match="does not answer"):
            client.extensions()
        assert server.requests == 2
