"""What is asked of a server has the datatype that its metadata names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.parts import serving
from tta_agent.core.errors import SwapError
from tta_agent.core.types import ServerInfo
from tta_agent.serving.clients.rest import OipClient
from tta_agent.stream.codecs import oip

X = np.array([[-3.0, 1.6, 300.0]], np.float32)


@contextmanager
def asking(datatype: str | None, seen: list[Any]) -> Iterator[OipClient]:
    """A client of a server that answers one number, and keeps what it was asked."""
    about = {"name": "x", "shape": [-1, 3]} | ({"datatype": datatype} if datatype else {})

    async def metadata(_: Request) -> Response:
        return JSONResponse({"name": "m", "inputs": [about]})

    async def infer(request: Request) -> Response:
        length = request.headers.get(oip.HEAD_LENGTH)
        seen.append(oip.decode(await request.body(), None if length is None else int(length)).inputs["x"])
        output = {"name": "y", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}
        return JSONResponse({"model_name": "m", "model_version": "1", "outputs": [output]})

    routes = [Route("/v2/models/m", metadata), Route("/v2/models/m/infer", infer, methods=["POST"])]
    with serving.running(Starlette(routes=routes)) as url:
        client = OipClient(ServerInfo(url, "m", 10))
        yield client
        client.close()


@pytest.mark.parametrize(
    ("datatype", "dtype", "values"),
    [
        (None, np.float32, [-3.0, 1.6, 300.0]),
        ("FP64", np.float64, [-3.0, 1.6, 300.0]),
        ("FP16", np.float16, [-3.0, 1.6, 300.0]),
        ("UINT8", np.uint8, [0, 2, 255]),
        ("INT64", np.int64, [-3, 2, 300]),
    ],
)
def test_the_question_has_the_servers_datatype(datatype: str | None, dtype: Any, values: list[float]) -> None:
    seen: list[Any] = []
    with asking(datatype, seen) as client:
        version, _ = client.infer(X)
    (asked,) = seen
    assert version == "1" and asked.dtype == dtype
    assert np.allclose(asked.astype(np.float64), values, rtol=1e-3)


@pytest.mark.parametrize(
    ("datatype", "words"), [("BYTES", "m at .* takes BYTES"), ("TYPE_8", "datatype 'TYPE_8'")]
)
def test_a_datatype_that_is_no_number_is_refused(datatype: str, words: str) -> None:
    seen: list[Any] = []
    with asking(datatype, seen) as client, pytest.raises(SwapError, match=words):
        client.infer(X)
    assert seen == []
