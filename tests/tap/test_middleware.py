"""The middleware that logs inferences over HTTP: the agent's codecs read its records, and no response is touched."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.parts import serving
from tta_agent.core.errors import ConfigError
from tta_agent.core.types import RawRecord, Record
from tta_agent.settings import env
from tta_agent.stream import factory
from tta_agent.stream.codecs import oip
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.tap import Tap, TapMiddleware, json_fields

X = serving.samples(2)
Y = serving.answers(X, 0)
CODEC = factory.open_codec(env.load())
TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


class Taps:
    """A tap, and what it has written as the agent reads it."""

    def __init__(self) -> None:
        self.producer = serving.FakeProducer()
        self.tap = Tap(self.producer, CloudEvents(), "t", "tiny")

    def records(self) -> list[Record]:
        self.tap.close()
        raws = [
            RawRecord(topic, 0, 0, 0, key, value, headers)
            for topic, key, value, headers in self.producer.sent
        ]
        found = [one for raw in raws for one in CODEC.decode(raw, serving.SHAPE, serving.CLASSES)]
        return [one for one in found if isinstance(one, Record)]


@pytest.fixture
def taps() -> Taps:
    return Taps()


async def infer(request: Request) -> Response:
    """Open Inference Protocol in either form, as the request wants it."""
    said = request.headers.get(oip.HEAD_LENGTH)
    body = oip.decode(await request.body(), int(said) if said else None)
    x = next(iter(body.inputs.values()))
    wanted = body.wanted.get("scores")
    answer = oip.Body({}, {"scores": serving.answers(x, 0)}, body.id or "made", "tiny", "3")
    text, length = oip.encode(answer, binary=bool(wanted))
    headers = {"x-mine": "kept"} | ({oip.HEAD_LENGTH: str(length)} if length else {})
    return Response(text, headers=headers)


async def predict(request: Request) -> Response:
    rows = np.array((await request.json())["instances"], np.float32)
    return JSONResponse({"predictions": serving.answers(rows, 0).tolist()})


async def image(request: Request) -> Response:
    pixels = np.array((await request.json())["pixels"], np.float32)
    request.state.version = "v7"
    return JSONResponse({"scores": serving.answers(pixels[None], 0)[0].tolist()}, headers={"x-version": "12"})


async def words(request: Request) -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"outputs": ['
        yield b"]}"

    await request.body()
    return StreamingResponse(chunks())


async def unsized(request: Request) -> Response:
    """As KServe answers in binary."""
    answer = await infer(request)
    del answer.headers["content-length"]
    return answer


async def unread(request: Request) -> Response:
    return JSONResponse({"outputs": []})


async def fails(request: Request) -> Response:
    raise RuntimeError("of the application")


def app(taps: Taps, *more: Middleware, **options: Any) -> httpx.AsyncClient:
    """The endpoints behind the middleware."""
    handlers = {
        "/v2/models/tiny/infer": infer, "/v1/models/tiny:predict": predict, "/image": image,
        "/words/infer": words, "/unread/infer": unread, "/unsized/infer": unsized, "/fails/infer": fails,
    }  # fmt: skip
    routes = [Route(path, handler, methods=["POST"]) for path, handler in handlers.items()]
    inside = Middleware(TapMiddleware, tap=taps.tap, **options)
    transport = httpx.ASGITransport(Starlette(routes=routes, middleware=[*more, inside]))
    return httpx.AsyncClient(transport=transport, base_url="http://here")


def post(client: httpx.AsyncClient, path: str, **given: Any) -> httpx.Response:
    import asyncio

    async def ask() -> httpx.Response:
        async with client:
            return await client.post(path, **given)

    return asyncio.run(ask())


def check(records: list[Record], id: str, version: int | None) -> None:
    assert [(one.id, one.version) for one in records] == [(f"{id}#{i}", version) for i in range(2)]
    np.testing.assert_allclose(np.stack([one.x for one in records]), X, rtol=1e-6)
    np.testing.assert_allclose(
        np.stack([one.served for one in records if one.served is not None]), Y, rtol=1e-5
    )


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_a_server_of_the_open_inference_protocol(taps: Taps, binary_in: bool, binary_out: bool) -> None:
    body = oip.Body({"pixels": X}, id="mine", parameters={"a": 1}, wanted={"scores": binary_out})
    text, length = oip.encode(body, binary=binary_in)
    headers = {"traceparent": TRACE, "tta-entity": "camera 7"} | (
        {oip.HEAD_LENGTH: str(length)} if length else {}
    )
    answer = post(app(taps), "/v2/models/tiny/infer", content=text, headers=headers)
    assert answer.status_code == 200 and answer.headers["x-mine"] == "kept" and "id" not in answer.headers
    records = taps.records()
    check(records, "mine", 3)
    assert [(one.key, one.traceparent) for one in records] == [("camera 7", TRACE)] * 2


def test_a_whole_response_without_a_length(taps: Taps) -> None:
    text, length = oip.encode(oip.Body({"pixels": X}, id="mine", wanted={"scores": True}))
    post(app(taps), "/unsized/infer", content=text, headers={oip.HEAD_LENGTH: str(length)})
    check(taps.records(), "mine", 3)


def test_the_id_that_the_server_makes_is_taken(taps: Taps) -> None:
    text, _ = oip.encode(oip.Body({"pixels": X}), binary=False)
    assert post(app(taps), "/v2/models/tiny/infer", content=text).json()["id"] == "made"
    check(taps.records(), "made", 3)


def test_a_server_of_protocol_version_1(taps: Taps) -> None:
    given = {"json": {"instances": X.tolist()}, "headers": {"x-request-id": "r-1"}}
    post(app(taps), "/v1/models/tiny:predict", **given)
    check(taps.records(), "r-1", None)


@pytest.mark.parametrize(
    ("version", "number", "name"),
    [("x-version", 12, ""), (lambda scope: scope["state"]["version"], None, "v7"), (None, None, "")],
)
def test_any_endpoint_with_fields_of_its_own(taps: Taps, version: Any, number: Any, name: str) -> None:
    client = app(taps, paths="/image", read=json_fields("pixels", "scores"), version=version)
    post(client, "/image", json={"pixels": X[0].tolist()})
    (record,) = taps.records()
    np.testing.assert_allclose(record.x, X[0], rtol=1e-6)
    assert record.served is not None and record.served.argmax() == Y[0].argmax()
    assert (record.version, record.version_name) == (number, name)


def test_a_version_beside_the_body_wins(taps: Taps) -> None:
    text, _ = oip.encode(oip.Body({"pixels": X}, id="mine"), binary=False)
    post(app(taps, version=lambda scope: 4), "/v2/models/tiny/infer", content=text)
    check(taps.records(), "mine", 4)


def test_what_is_not_logged(taps: Taps) -> None:
    text, _ = oip.encode(oip.Body({"pixels": X}), binary=False)
    assert (
        post(app(taps), "/v2/models/tiny/infer", content=text, headers={"tta-probe": "1"}).status_code == 200
    )
    assert post(app(taps), "/image", json={"pixels": X[0].tolist()}).status_code == 200
    assert post(app(taps), "/v2/models/other/infer", content=text).status_code == 404
    assert taps.tap.counts()["left_out"] == 0, "none of these is an inference to be logged"
    assert post(app(taps), "/words/infer", content=b"{}").content == b'{"outputs": []}'
    assert post(app(taps), "/unread/infer", content=text).status_code == 200
    assert (
        post(app(taps, max_body_bytes=100), "/v2/models/tiny/infer", content=text).json()["model_version"]
        == "3"
    )
    compressed = post(
        app(taps, Middleware(GZipMiddleware, minimum_size=1)), "/v2/models/tiny/infer", content=text
    )
    assert compressed.headers["content-encoding"] == "gzip"
    assert taps.tap.counts()["left_out"] == 3
    assert len(taps.records()) == 2, "compressed outside of the tap"


def test_errors_of_the_application_stay_its_own(taps: Taps) -> None:
    with pytest.raises(RuntimeError, match="of the application"):
        post(app(taps), "/fails/infer", content=b"{}")
    assert taps.records() == []


def test_a_log_that_hangs_or_a_faulty_reader_harms_no_request(taps: Taps) -> None:
    taps.producer.gate.clear()
    text, _ = oip.encode(oip.Body({"pixels": X}), binary=False)
    for _ in range(5):
        assert post(app(taps), "/v2/models/tiny/infer", content=text).status_code == 200
    assert (
        post(app(taps, version=lambda scope: 1 / 0), "/v2/models/tiny/infer", content=text).status_code == 200
    )
    reader = json_fields("nothing", "scores")
    assert post(app(taps, read=reader), "/v2/models/tiny/infer", content=text).status_code == 200
    taps.producer.gate.set()
    assert len(taps.records()) == 10
    assert (taps.tap.counts()["failed"], taps.tap.counts()["errors"]) == (1, 1)


@pytest.mark.parametrize("text", [b"[1]", b"{} x", b"", b'{"inputs"'])
def test_bodies_of_no_protocol_are_counted(taps: Taps, text: bytes) -> None:
    async def echo(request: Request) -> Response:
        await request.body()
        return JSONResponse({"outputs": []})

    inside = Middleware(TapMiddleware, tap=taps.tap)
    starlette = Starlette(routes=[Route("/infer", echo, methods=["POST"])], middleware=[inside])
    client = httpx.AsyncClient(transport=httpx.ASGITransport(starlette), base_url="http://here")
    assert post(client, "/infer", content=text).status_code == 200
    assert taps.records() == [] and taps.tap.counts()["errors"] == 1


def test_nothing_is_said_by_the_members_of_a_body_that_is_joined(taps: Taps) -> None:
    """An id, a version or outputs in the request are those of the client; the response counts."""
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [2, 1, 4, 4], "data": X.ravel().tolist()}
    asked = {"id": "mine", "model_version": "9", "inputs": [tensor], "outputs": [{"name": "scores"}]}
    post(app(taps), "/v2/models/tiny/infer", content=json.dumps(asked).encode())
    check(taps.records(), "mine", 3)


def test_a_format_of_ones_own_needs_a_reader() -> None:
    class Own(CloudEvents):
        pass

    class Other:
        encode_inference = CloudEvents.encode_inference

    tap = Tap(serving.FakeProducer(), Own(), "t", "tiny")
    TapMiddleware(infer, tap=tap)  # type: ignore[arg-type]
    tap.codec = Other()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="read"):
        TapMiddleware(infer, tap=tap)  # type: ignore[arg-type]
    tap.close()
