"""Small graphs that tell their version by their answers, a server on a free port, and a fake producer."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import uvicorn
from onnx import TensorProto, helper, numpy_helper

from tta_agent.core.errors import RegistryError, StreamError
from tta_agent.core.types import Array, Done, Golden, Headers, Version

SHAPE, CLASSES = (1, 4, 4), 3
STEP = 100.0  # version n answers n * STEP more than version 0
WEIGHTS = np.random.default_rng(0).normal(size=(16, CLASSES)).astype(np.float32)


def answers(x: Array, number: int) -> Array:
    """What version `number` answers."""
    return np.asarray(x.reshape(len(x), -1) @ WEIGHTS + STEP * number, dtype=np.float32)


def samples(n: int, seed: int = 0) -> Array:
    """Some inputs."""
    return np.random.default_rng(seed).normal(size=(n, *SHAPE)).astype(np.float32)


def golden(number: int, n: int = 4) -> Golden:
    """A golden batch of version `number`."""
    return Golden(samples(n, 7), answers(samples(n, 7), number))


def graph_bytes(
    number: int, *, scale: float = 1.0, shape: tuple[int, ...] = SHAPE, takes: int = TensorProto.FLOAT
) -> bytes:
    """An ONNX graph [n, *shape] -> [n, CLASSES]; `takes` is the type of its input."""
    weights = np.resize(WEIGHTS * scale, (int(np.prod(shape)), CLASSES))
    bias = np.full(CLASSES, STEP * number, np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["floats"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w", "b"], ["scores"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("pixels", takes, ["n", *shape])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


class GraphFolder:
    """Versions in a folder: all that a server needs of a registry."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.versions: dict[int, Version] = {}

    def add(self, number: int, content: bytes | None = None, **graph: Any) -> Version:
        """Write a version; `content` in place of a graph."""
        path = self.folder / f"{number}.onnx"
        content = graph_bytes(number, **graph) if content is None else content
        path.write_bytes(content)
        version = Version(number, hashlib.sha256(content).hexdigest(), path, "none")
        self.versions[number] = version
        return version

    def find(self, number: int) -> Version:
        """The version, or RegistryError."""
        if number not in self.versions:
            raise RegistryError(f"no version {number}")
        return self.versions[number]


class FakeProducer:
    """Keeps what is sent; can be told to fail or to block."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes | None, bytes | None, Headers]] = []
        self.flushed = 0
        self.fails = False
        self.gate = threading.Event()
        self.gate.set()

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        on_done: Done | None = None,
    ) -> None:
        """Append once the gate is open, and acknowledge."""
        self.gate.wait(10)
        if self.fails:
            raise StreamError("no broker")
        self.sent.append((topic, key, value, headers))
        if on_done is not None:
            on_done(None)

    def flush(self) -> None:
        """Count."""
        self.flushed += 1

    def close(self) -> None:
        """Nothing to free."""


@contextmanager
def running(app: Any) -> Iterator[str]:
    """The app on a free loopback port, by its base URL."""
    # asyncio turns Nagle's algorithm off only for a socket that says it is TCP.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        eventually(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


def eventually(holds: Any, timeout_s: float = 10.0) -> None:
    """Wait until it holds."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, "it did not come to hold"
        time.sleep(0.005)
