"""Handlers of inference, and of what the server says of itself."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

import tta_agent
from tta_agent.serving.server.admission import Budget, Turns
from tta_agent.serving.server.answers import guarded
from tta_agent.serving.server.engine import Answer, Engine, Question
from tta_agent.serving.server.loads import check_model
from tta_agent.serving.server.repository import Repository
from tta_agent.serving.server.stats import Stats
from tta_agent.stream.codecs import checks, oip
from tta_agent.stream.codecs.datatypes import show
from tta_agent.tap import Tap
from tta_agent.web.bodies import AsciiJSON
from tta_agent.web.compression import takes_gzip


class Rest:
    """Handlers of the REST API, on the event loop; inference runs in threads of its own.

    Args:
        threads: requests computed at a time.
        max_body_bytes: largest request.
        memory_bytes: for the bodies of all requests in flight.
    """

    def __init__(
        self,
        engine: Engine,
        repository: Repository,
        tap: Tap | None,
        threads: int,
        max_body_bytes: int,
        memory_bytes: int,
    ) -> None:
        self._engine, self._repository, self._tap = engine, repository, tap
        self._stats, self._max_body_bytes = Stats(), max_body_bytes
        self._budget, self._turns = Budget(memory_bytes), Turns(threads)
        self._workers = ThreadPoolExecutor(threads, "tta-infer")

    def close(self) -> None:
        """Free the threads, and let the tap send what it holds."""
        self._workers.shutdown()
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
        answer = await self._answer(request)
        if self._tap is not None and not _is_probe(request):
            self._log(self._tap, request, answer)
        return Response(answer.body, headers=answer.headers)

    async def _answer(self, request: Request) -> Answer:
        number = self._target(request)
        length = checks.whole(request.headers.get(oip.HEAD_LENGTH), "head_length")
        gzip = takes_gzip(request.headers.get("accept-encoding"))
        async with self._budget.share() as share:
            body = await share.read(request, self._max_body_bytes, length)
            async with self._turns.turn(len(body)):
                if await request.is_disconnected():
                    raise ClientDisconnect
                share.begin()
                question = Question(body, length, number, gzip)
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._workers, self._engine.answer, question)

    def _log(self, tap: Tap, request: Request, answer: Answer) -> None:
        trace = request.headers.get("traceparent")
        entity = request.headers.get("tta-entity", "")[: checks.MAX_TEXT] or None
        x, logits, number = answer.x, answer.logits, answer.version  # nobody writes to them any more
        tap.record(x, logits, id=answer.id, version=number, traceparent=trace, entity=entity, copy=False)

    async def about(self, request: Request) -> Response:
        """The server and its extensions."""
        extensions = ["binary_tensor_data", "model_repository"]
        return AsciiJSON({"name": "tta-agent", "version": tta_agent.__version__, "extensions": extensions})

    async def stats(self, request: Request) -> Response:
        """Counts, latencies, versions, and what the tap did."""
        marks = {entry["reason"]: int(entry["version"]) for entry in self._repository.index()}
        tap = None if self._tap is None else self._tap.counts()
        about = {"model": self._engine.model, "live": marks["live"], "previous": marks.get("previous")}
        return AsciiJSON({**about, **self._stats.snapshot(), "tap": tap})

    async def is_live(self, request: Request) -> Response:
        """The process answers."""
        return AsciiJSON({"live": True})

    async def is_ready(self, request: Request) -> Response:
        """A session is loaded: there always is one."""
        return AsciiJSON({"ready": True})

    async def metadata(self, request: Request) -> Response:
        """Names and shapes of the tensors."""
        return AsciiJSON(self._engine.metadata(self._target(request)))

    async def ready(self, request: Request) -> Response:
        """404 for a version that is not loaded."""
        self._engine.metadata(self._target(request))
        return AsciiJSON({"name": self._engine.model, "ready": True})

    def _target(self, request: Request) -> int | None:
        """The version in the URL, of our model."""
        check_model(request, self._engine.model)
        number = request.path_params.get("number")
        if number is not None and not number.isdecimal():
            raise HTTPException(404, f"no version {show(number)}; expected a number")
        return checks.whole(number, "version")


def _is_probe(request: Request) -> bool:
    return request.headers.get("tta-probe") == "1"
