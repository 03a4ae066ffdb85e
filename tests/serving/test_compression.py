"""Compressed requests and answers of the embedded server, over real HTTP."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.parts import serving
from tests.serving.test_admission import SERVER, Process, _lives
from tests.serving.test_server import Server, X, serving_tiny
from tta_agent.stream.codecs import oip
from tta_agent.web import compression

JSON_BODY, _ = oip.encode(oip.Body({"input": X}), binary=False)
INFER = "/v2/models/tiny/infer"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving_tiny(tmp_path) as started:
        yield started


@pytest.mark.parametrize(
    ("coding", "compress"),
    [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)],
)
def test_compressed_requests_are_answered(
    server: Server, coding: str, compress: Callable[[bytes], bytes]
) -> None:
    headers = {"content-encoding": coding}
    found = server.http.post(INFER, content=compress(JSON_BODY), headers=headers).json()
    np.testing.assert_allclose(
        np.reshape(found["outputs"][0]["data"], (2, 3)), serving.answers(X, 0), atol=1e-4
    )
    body, length = oip.encode(oip.Body({"input": X}, parameters={"binary_data_output": True}))
    headers[oip.HEAD_LENGTH] = str(length)  # of the JSON before it is compressed
    response = server.http.post(INFER, content=compress(body), headers=headers)
    answer = oip.decode(response.content, int(response.headers[oip.HEAD_LENGTH]))
    np.testing.assert_allclose(answer.outputs["logits"], serving.answers(X, 0), atol=1e-4)


def test_a_large_compressed_request_comes_whole(server: Server) -> None:
    x = serving.samples(256)
    body, _ = oip.encode(oip.Body({"input": x}), binary=False)
    assert len(body) > compression.PIECE_BYTES
    found = server.http.post(INFER, content=gzip.compress(body), headers={"content-encoding": "gzip"}).json()
    np.testing.assert_allclose(
        np.reshape(found["outputs"][0]["data"], (256, 3)), serving.answers(x, 0), atol=1e-4
    )


BROKEN: dict[str, tuple[str, bytes, int]] = {
    "expected gzip, deflate or none": ("br", JSON_BODY, 415),
    "cannot be decompressed": ("gzip", JSON_BODY, 400),
    "ends early": ("gzip", gzip.compress(JSON_BODY)[:-9], 400),
    "bytes follow its end": ("gzip", gzip.compress(JSON_BODY) + b"more", 400),
}


@pytest.mark.parametrize("words", BROKEN)
def test_what_cannot_be_decompressed_is_refused(server: Server, words: str) -> None:
    coding, content, status = BROKEN[words]
    found = server.http.post(INFER, content=content, headers={"content-encoding": coding})
    assert found.status_code == status and words in found.json()["error"]
    assert server.infer()[0] == "0"


def test_a_gzip_bomb_is_refused_and_takes_no_memory(tmp_path: Path) -> None:
    """Half a megabyte that becomes 0.5 GB, as raw tensors and as JSON."""
    bomb = gzip.compress(bytes(500 << 20), 6)
    with process(tmp_path) as server:
        server.infer()
        before = server.memory_mb("VmHWM")
        for head in ({oip.HEAD_LENGTH: "2"}, {}):
            found = httpx.post(
                server.url + INFER,
                content=bomb,
                headers={"content-encoding": "gzip", **head},
                trust_env=False,
            )
            assert found.status_code == 413, found.text
            assert "larger when it is decompressed" in found.text or "TTA_SERVE__BODY_BYTES" in found.text
        assert server.infer() == 200
        assert server.memory_mb("VmHWM") - before < 200


class process:
    """The server in a process of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._command = [sys.executable, "-c", SERVER, str(folder), str(self._port)]

    def __enter__(self) -> Process:
        self._process = subprocess.Popen(self._command, cwd=Path(__file__).parents[2])
        started = Process(self._process, self._port)
        serving.eventually(lambda: _lives(started.url), 60)
        return started

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def asked(server: Server, x: Any, accepted: str, *, binary: bool) -> httpx.Response:
    body, length = oip.encode(oip.Body({"input": x}, parameters={"binary_data_output": binary}))
    headers = {oip.HEAD_LENGTH: str(length), "accept-encoding": accepted}
    response = server.http.post(INFER, content=body, headers=headers)
    assert response.status_code == 200
    return response


def test_answers_are_compressed_where_the_client_takes_it_and_they_shrink(server: Server) -> None:
    x = serving.samples(200)
    for accepted in ("gzip", "br, gzip;q=0.5", "*"):
        response = asked(server, x, accepted, binary=False)
        assert response.headers["content-encoding"] == "gzip"
        assert int(response.headers["content-length"]) < 0.6 * len(response.content)
        np.testing.assert_allclose(
            oip.decode(response.content, None).outputs["logits"], serving.answers(x, 0), atol=1e-4
        )
    for accepted in ("identity", "deflate", "gzip;q=0"):
        assert "content-encoding" not in asked(server, x, accepted, binary=False).headers
    assert "content-encoding" not in asked(server, serving.samples(1), "gzip", binary=False).headers
    assert "content-encoding" not in asked(server, x, "gzip", binary=True).headers, "raw floats do not shrink"
    equal = asked(server, np.repeat(serving.samples(1), 200, 0), "gzip", binary=True)
    assert equal.headers["content-encoding"] == "gzip"
    answer = oip.decode(equal.content, int(equal.headers[oip.HEAD_LENGTH]))
    assert answer.outputs["logits"].shape == (200, 3)


def test_the_bound_is_that_of_the_decompressed_body(tmp_path: Path) -> None:
    content = gzip.compress(json.dumps({"inputs": [], "id": "x" * 500}).encode())
    with serving_tiny(tmp_path, max_body_bytes=300) as server:
        found = server.http.post(INFER, content=content, headers={"content-encoding": "gzip"})
        assert len(content) < 300 and found.status_code == 413
        assert "larger when it is decompressed than 300 bytes" in found.json()["error"]
