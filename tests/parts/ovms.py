"""A small server that keeps to the documented protocol of OpenVINO Model Server: no package registry has its program.

It serves the newest numbered folder under a base path, and looks again when it is told to, or when it polls. Changes
inside a folder that it has loaded are not seen. A version that does not load has a status with an error; the one
before answers on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tta_agent.core.errors import GraphError
from tta_agent.models.ort_sessions import Session, open_session, raw_answer
from tta_agent.stream.codecs import oip


class Ovms:
    """One model.

    Args:
        base: its base path.
        poll_s: pause between two looks; 0: it does not poll.
        reloads: whether the reload call is answered.
    """

    def __init__(self, name: str, base: Path, *, poll_s: float = 0.0, reloads: bool = True) -> None:
        self.name, self.base, self._poll_s, self._reloads = name, base, poll_s, reloads
        self.loaded: dict[int, Session] = {}
        self.failed: dict[int, str] = {}
        self.retired: set[int] = set()
        self.look()

    def restart(self) -> None:
        """Forget what was loaded, and look."""
        self.loaded, self.failed, self.retired = {}, {}, set()
        self.look()

    def look(self) -> None:
        """Serve the newest folder: load it first, then retire the others."""
        numbers = [int(p.name) for p in self.base.iterdir() if p.name.isdecimal() and p.is_dir()]
        newest = max(numbers)
        self.failed = {number: told for number, told in self.failed.items() if number in numbers}
        known = newest in self.loaded or newest in self.failed
        if keep := {newest} & self.loaded.keys() if known else self._load(newest):
            self.retired |= self.loaded.keys() - keep
            self.loaded = {number: self.loaded[number] for number in keep}

    def _load(self, number: int) -> set[int]:
        try:
            (path,) = (self.base / str(number)).glob("*.onnx")
            self.loaded[number] = open_session(path)
            self.retired.discard(number)
            return {number}
        except (GraphError, ValueError) as error:
            self.failed[number] = str(error)
            return set()

    def status(self) -> dict[str, Any]:
        """Entries of GET /v1/config."""
        states = [(n, "AVAILABLE", "OK", "OK") for n in self.loaded]
        states += [(n, "LOADING", "UNKNOWN", told) for n, told in self.failed.items()]
        states += [(n, "END", "OK", "OK") for n in self.retired - self.loaded.keys()]
        return {self.name: {"model_version_status": [
            {"version": str(n), "state": state, "status": {"error_code": code, "error_message": told}}
            for n, state, code, told in states
        ]}}  # fmt: skip

    def app(self) -> Starlette:
        """Its REST API."""
        model = f"/v2/models/{self.name}"
        return Starlette(lifespan=self._lifespan, routes=[
            Route("/v1/config", self._config),
            Route("/v1/config/reload", self._reload, methods=["POST"]),
            Route("/v2", lambda _: JSONResponse({"name": "OpenVINO Model Server", "version": "2026.1"})),
            Route(model, self._metadata),
            Route(f"{model}/infer", self._infer, methods=["POST"]),
        ])  # fmt: skip

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        polling = asyncio.create_task(self._polls()) if self._poll_s else None
        yield
        if polling:
            polling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await polling

    async def _polls(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            self.look()

    async def _config(self, _: Request) -> Response:
        return JSONResponse(self.status())

    async def _reload(self, _: Request) -> Response:
        if not self._reloads:
            return JSONResponse({"error": "Configuration file not found or cannot be opened"}, 412)
        self.look()
        return JSONResponse(self.status(), 201)

    async def _metadata(self, _: Request) -> Response:
        tensor = {"name": "pixels", "datatype": "FP32", "shape": [-1, 1, 4, 4]}
        return JSONResponse(
            {"name": self.name, "versions": [str(n) for n in self.loaded], "inputs": [tensor]}
        )

    async def _infer(self, request: Request) -> Response:
        number, session = max(self.loaded.items())
        asked = oip.decode(await request.body(), None)
        try:
            answer = raw_answer(session, asked.inputs["pixels"])
        except (GraphError, KeyError) as error:
            return JSONResponse({"error": str(error)}, 400)
        output = {
            "name": "scores",
            "datatype": "FP32",
            "shape": list(answer.shape),
            "data": answer.ravel().tolist(),
        }
        return JSONResponse({"model_name": self.name, "model_version": str(number), "outputs": [output]})
