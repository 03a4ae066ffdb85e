"""Handlers of the repository API: index, load, unload. They need the token, where there is one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tta_agent.core.errors import DecodeError, nearest
from tta_agent.serving.server.repository import Repository
from tta_agent.stream.codecs import checks
from tta_agent.stream.codecs.datatypes import show
from tta_agent.telemetry import names
from tta_agent.telemetry.server import ServerTelemetry
from tta_agent.web import access, bodies
from tta_agent.web.bodies import AsciiJSON

LOAD_NICENESS = 19
_MAX_ORDER_BYTES = 1 << 16
_ORDER_S = 10.0  # longest wait for the body of an order
TOKEN = "TTA_SERVE__TOKEN"


class Loads:
    """Handlers of the repository API, on the event loop; loading runs in a thread of its own."""

    def __init__(
        self, model: str, repository: Repository, token: str | None, telemetry: ServerTelemetry
    ) -> None:
        """Store the parts; the thread starts with the first order."""
        self._model, self._repository, self._token = model, repository, token
        self._telemetry = telemetry
        self._loader = ThreadPoolExecutor(1, "tta-load", initializer=_yield_to_requests)

    def close(self) -> None:
        """Free the thread."""
        self._loader.shutdown()

    async def load(self, request: Request) -> Response:
        """Load a version, and make it live unless told otherwise."""
        with self._telemetry.request(names.LOAD, request.headers.get("traceparent")) as stage:
            self._check_token(request)
            check_model(request, self._model)
            number, activate, sha256 = _load_order(await _order(request))
            if number is not None:  # else: nothing newer than what is loaded is known
                await self._load(number, activate, sha256)
            stage.answered(200, {names.MODEL_VERSION: self._repository.live})
        return AsciiJSON(self._repository.index())

    async def _load(self, number: int, activate: bool, sha256: str | None) -> None:
        before, started_s = self._repository.live, time.perf_counter()
        order = partial(self._repository.load, number, activate=activate, sha256=sha256)
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._loader, order)
        except Exception:
            if activate:
                self._telemetry.swap_done("failed", time.perf_counter() - started_s)
            raise
        if self._repository.live != before:
            self._telemetry.swap_done("activated", time.perf_counter() - started_s)
            self._telemetry.model(number, found)

    async def unload(self, request: Request) -> Response:
        """Unload a version beside the live one: requests on it are answered, and its memory is freed."""
        self._check_token(request)
        check_model(request, self._model)
        number, *_ = _load_order(await _order(request))
        order = partial(self._repository.unload, number)
        await asyncio.get_running_loop().run_in_executor(self._loader, order)
        return AsciiJSON(self._repository.index())

    async def index(self, request: Request) -> Response:
        """Versions and their states."""
        self._check_token(request)
        return AsciiJSON(self._repository.index())

    def _check_token(self, request: Request) -> None:
        if fault := access.token_fault(request.headers.get("authorization"), self._token, TOKEN):
            status, told = fault
            raise HTTPException(status, told, {"www-authenticate": "Bearer"} if status == 401 else None)


def _yield_to_requests() -> None:
    """Give this thread the lowest priority: requests come before a version that is being loaded."""
    with contextlib.suppress(
        OSError, AttributeError
    ):  # where threads have none of their own, as outside Linux
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOAD_NICENESS)


def check_model(request: Request, model: str) -> None:
    """Raise HTTPException 404 unless the URL names the model."""
    name = request.path_params["model"]
    if name != model:
        raise HTTPException(404, f"no model {show(name)} here; {nearest(name, [model])}")


def target(request: Request, model: str) -> int | None:
    """Version that the URL names, of the model; None: it names none.

    Raises:
        HTTPException: 404, it names another model, or no number.
    """
    if "model" in request.path_params:
        check_model(request, model)
    number = request.path_params.get("number")
    if number is not None and not number.isdecimal():
        raise HTTPException(404, f"no version {show(number)}; expected a number")
    return checks.whole(number, "version")


async def _order(request: Request) -> bytes:
    """Body of an order; what says that it is no JSON is refused: browsers send such a body to any site unasked.

    Triton's client says nothing. A browser that says nothing sends the header Origin, which `Guard` refuses.
    """
    kind = request.headers.get("content-type")
    if kind is not None and not access.is_json(kind):
        raise HTTPException(415, f"content-type is {show(kind)}; expected application/json")
    try:
        async with asyncio.timeout(_ORDER_S):
            return await bodies.read(request, _MAX_ORDER_BYTES)
    except TimeoutError:
        raise HTTPException(
            408, f"the body did not come within {_ORDER_S:g} s", {"connection": "close"}
        ) from None


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
