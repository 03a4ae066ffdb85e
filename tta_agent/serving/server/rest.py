"""Handlers of the REST API; every failure is answered with a status and a message."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

import tta_agent
from tta_agent.core.errors import DecodeError, RegistryError, nearest
from tta_agent.serving.server.engine import Answer, Engine
from tta_agent.serving.server.repository import Repository
from tta_agent.serving.server.stats import Stats
from tta_agent.serving.server.tap import Tap
from tta_agent.stream.codecs import checks, oip

_log = logging.getLogger(__name__)
_MAX_ORDER_BYTES = 1 << 16  # of a load request
Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


class Rest:
    """Handlers of the REST API, on the event loop; inference and loading run in threads of their own."""

    def __init__(
        self, engine: Engine, repository: Repository, tap: Tap | None, threads: int, max_body_bytes: int
    ) -> None:
        """Store the parts; threads start with the first request."""
        self._engine, self._repository, self._tap = engine, repository, tap
        self._stats = Stats()
        self._max_body_bytes = max_body_bytes
        self._workers = ThreadPoolExecutor(threads, "tta-infer")
        self._loader = ThreadPoolExecutor(1, "tta-load")

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Free the threads at the end, and let the tap send what it holds."""
        yield
        self._workers.shutdown()
        self._loader.shutdown()
        if self._tap is not None:
            self._tap.close()

    async def infer(self, request: Request) -> Response:
        """Answer and count, unless it is a probe of ours."""
        started_s = time.perf_counter()
        response = await guarded(self._infer, request)
        if not _is_probe(request):
            self._stats.count(response.status_code, time.perf_counter() - started_s)
        return response

    async def _infer(self, request: Request) -> Response:
        number = self._target(request)
        length = checks.whole(request.headers.get(oip.HEAD_LENGTH), "head_length")
        body = await _body(request, self._max_body_bytes)
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._workers, self._engine.answer, body, length, number)
        if self._tap is not None and not _is_probe(request):
            self._log(self._tap, request, answer)
        if answer.head_length is None:
            return Response(answer.body, media_type="application/json")
        headers = {oip.HEAD_LENGTH: str(answer.head_length)}
        return Response(answer.body, media_type="application/octet-stream", headers=headers)

    def _log(self, tap: Tap, request: Request, answer: Answer) -> None:
        trace = request.headers.get("traceparent")
        entity = request.headers.get("tta-entity", "")[: checks.MAX_TEXT] or None
        tap.offer(answer.id, answer.x, answer.logits, answer.version, traceparent=trace, entity=entity)

    async def load(self, request: Request) -> Response:
        """Load a version, and make it live unless told otherwise."""
        self._target(request)
        number, activate, sha256 = _load_order(await _body(request, _MAX_ORDER_BYTES))
        if number is not None:  # else: nothing newer than what is loaded is known
            order = partial(self._repository.load, number, activate=activate, sha256=sha256)
            await asyncio.get_running_loop().run_in_executor(self._loader, order)
        return JSONResponse(self._repository.index())

    async def index(self, request: Request) -> Response:
        """Versions and their states."""
        return JSONResponse(self._repository.index())

    async def about(self, request: Request) -> Response:
        """The server and its extensions."""
        extensions = ["binary_tensor_data", "model_repository"]
        return JSONResponse({"name": "tta-agent", "version": tta_agent.__version__, "extensions": extensions})

    async def stats(self, request: Request) -> Response:
        """Counts, latencies, versions, and what the tap did."""
        marks = {entry["reason"]: int(entry["version"]) for entry in self._repository.index()}
        tap = None if self._tap is None else self._tap.counts()
        about = {"model": self._engine.model, "live": marks["live"], "previous": marks.get("previous")}
        return JSONResponse({**about, **self._stats.snapshot(), "tap": tap})

    async def is_live(self, request: Request) -> Response:
        """The process answers."""
        return JSONResponse({"live": True})

    async def is_ready(self, request: Request) -> Response:
        """A session is loaded: there always is one."""
        return JSONResponse({"ready": True})

    async def metadata(self, request: Request) -> Response:
        """Names and shapes of the tensors."""
        return JSONResponse(self._engine.metadata(self._target(request)))

    async def ready(self, request: Request) -> Response:
        """404 for a version that is not loaded."""
        self._engine.metadata(self._target(request))
        return JSONResponse({"name": self._engine.model, "ready": True})

    def _target(self, request: Request) -> int | None:
        """The version in the URL, of our model."""
        name = request.path_params["model"]
        if name != self._engine.model:
            raise HTTPException(404, f"no model {name} here; {nearest(name, [self._engine.model])}")
        return request.path_params.get("number")


async def guarded(handler: Handler, request: Request) -> Response:
    """The handler's answer, or the error as the protocol writes it."""
    try:
        return await handler(request)
    except HTTPException as error:
        return _error(error.status_code, error.detail)
    except (DecodeError, ClientDisconnect) as error:
        return _error(400, str(error) or "the client went away")
    except RegistryError as error:
        return _error(404, str(error))
    except Exception as error:  # every failure has an answer
        _log.error("%s %s failed: %s", request.method, request.url.path, error)
        return _error(500, str(error) or type(error).__name__)


async def http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, as the protocol writes errors."""
    assert isinstance(error, HTTPException)  # it is registered for no other
    return _error(error.status_code, error.detail)


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)


def _is_probe(request: Request) -> bool:
    return request.headers.get("tta-probe") == "1"


async def _body(request: Request, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise DecodeError("too_large", f"the body is larger than {limit} bytes, the most that is taken")
        chunks.append(chunk)
    return b"".join(chunks)


def _load_order(body: bytes) -> tuple[int | None, bool, str | None]:
    """Version, whether to activate it, and its sha256, as the caller gave them."""
    try:
        given: Any = json.loads(body or b"{}")
        parameters = given.get("parameters") or {}
        number, activate = parameters.get("version"), parameters.get("activate", True)
        sha256 = parameters.get("sha256")
    except (ValueError, AttributeError, RecursionError) as error:
        raise DecodeError(
            "json", 'the body is no object; expected {"parameters": {"version": "3"}}'
        ) from error
    if not isinstance(activate, bool) or not isinstance(sha256, str | None):
        raise DecodeError(
            "parameters", "activate or sha256 has a wrong type; expected true or false, a string"
        )
    return checks.whole(None if number is None else str(number), "version"), activate, sha256
