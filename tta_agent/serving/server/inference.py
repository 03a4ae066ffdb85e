"""Handler of inference requests: body, turn, answer; on the event loop, with threads of its own for inference."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tta_agent.serving.server.admission import Budget, Turns
from tta_agent.serving.server.answers import guarded
from tta_agent.serving.server.batching import Batching, DynamicBatcher
from tta_agent.serving.server.engine import Answer, Engine, Execution, Question, Task
from tta_agent.serving.server.loads import target
from tta_agent.serving.server.statistics import ModelStatistics
from tta_agent.serving.server.stats import Stats
from tta_agent.stream.codecs import checks, oip
from tta_agent.tap import Tap
from tta_agent.telemetry import names
from tta_agent.telemetry.server import ServerTelemetry
from tta_agent.web.compression import takes_gzip
from tta_agent.web.drain import Drain

A = TypeVar("A")
B = TypeVar("B")


class Inference:
    """Inference of one model.

    Args:
        tap: log of inferences, probes left out.
        threads: requests computed at a time.
        max_body_bytes: largest request.
        memory_bytes: for the bodies of all requests in flight.
        batching: how requests are joined.
        drain: at the end.
    """

    def __init__(
        self, engine: Engine, tap: Tap | None, threads: int, max_body_bytes: int, memory_bytes: int,
        batching: Batching, telemetry: ServerTelemetry, drain: Drain,
    ) -> None:  # fmt: skip
        self._engine, self._tap, self._max_body_bytes = engine, tap, max_body_bytes
        self.threads, self.stats, self.statistics = threads, Stats(), ModelStatistics()
        self._budget, self._turns = Budget(memory_bytes), Turns(threads)
        self._workers = ThreadPoolExecutor(threads, "tta-infer")
        self.batching, self._telemetry, self.drain = batching, telemetry, drain
        self._batcher = DynamicBatcher(self._run, self._turns, batching) if batching.size > 1 else None
        telemetry.watch(lambda: drain.active, lambda: self.waiting)

    def close(self) -> None:
        """Free the threads, and let the tap send what it holds."""
        self._workers.shutdown()
        if self._tap is not None:
            self._tap.close()

    def tap_counts(self) -> dict[str, int] | None:
        """What the tap did."""
        return None if self._tap is None else self._tap.counts()

    @property
    def waiting(self) -> int:
        """Requests, and batches of them, that wait for a worker."""
        return self._turns.waiting

    async def infer(self, request: Request) -> Response:
        """Answer and count, unless it is a probe of ours."""
        if request.headers.get("tta-probe") == "1":
            return await guarded(self._probed, request)
        with self.drain.request():
            response = await self._counted(request)
        if self.drain.begun:  # the client is to find another server for its next one
            response.headers["connection"] = "close"
        return response

    async def _counted(self, request: Request) -> Response:
        started_s = time.perf_counter()
        with self._telemetry.request(names.INFER, request.headers.get("traceparent")) as stage:
            response = await guarded(self._infer, request)
            answer: Answer | None = getattr(request.state, "answer", None)
            stage.answered(response.status_code, {} if answer is None else _about(answer))
        status, duration_s = response.status_code, time.perf_counter() - started_s
        self.stats.count(status, duration_s)
        self._telemetry.answered(status, duration_s, getattr(request.state, "version", None))
        return response

    async def _probed(self, request: Request) -> Response:
        answer = await self._answer(request)
        return Response(answer.body, headers=answer.headers)

    async def _infer(self, request: Request) -> Response:
        answer = request.state.answer = await self._answer(request)
        if self._tap is not None:
            self._log(self._tap, request, answer)
        return Response(answer.body, headers=answer.headers)

    async def _answer(self, request: Request) -> Answer:
        number = target(request, self._engine.model)
        length = checks.whole(request.headers.get(oip.HEAD_LENGTH), "head_length")
        gzip = takes_gzip(request.headers.get("accept-encoding"))
        async with self._budget.share() as share:
            body = await share.read(request, self._max_body_bytes, length)
            question = Question(body, length, number, gzip, time.perf_counter_ns())
            async with self._turns.turn(len(body)):
                if await request.is_disconnected():
                    raise ClientDisconnect
                if self._batcher is None:
                    share.begin()
                    return await self._alone(question, request)
                task = await self._in_worker(self._engine.read, question)
            request.state.version = task.version
            return await self._batcher.answer(task, share.begin)

    async def _alone(self, question: Question, request: Request) -> Answer:
        """Read and run one request at once."""
        execution = await self._in_worker(self._engine.answer, question)
        request.state.version = execution.version
        self._count(execution)
        [found] = execution.answers
        if isinstance(found, Exception):
            raise found
        return found

    async def _run(self, tasks: Sequence[Task]) -> Sequence[Execution]:
        """Run tasks together."""
        executions = await self._in_worker(self._engine.run, tasks)
        for execution in executions:
            self._count(execution)
        return executions

    def _count(self, execution: Execution) -> None:
        self.statistics.add(execution)
        self._telemetry.ran(execution.samples)

    def _in_worker(self, call: Callable[[A], B], given: A) -> asyncio.Future[B]:
        return asyncio.get_running_loop().run_in_executor(self._workers, call, given)

    def _log(self, tap: Tap, request: Request, answer: Answer) -> None:
        trace = self._telemetry.context() or request.headers.get("traceparent")
        entity = request.headers.get("tta-entity", "")[: checks.MAX_TEXT] or None
        x, logits, number = answer.x, answer.logits, answer.version  # nobody writes to them any more
        tap.record(x, logits, id=answer.id, version=number, traceparent=trace, entity=entity, copy=False)


def _about(answer: Answer) -> dict[str, int | float]:
    """What the span of a request says of its answer."""
    queued_s, inferred_s = answer.queue_ns / 1e9, answer.infer_ns / 1e9
    return {
        names.MODEL_VERSION: answer.version, names.BATCH_SAMPLES: answer.batch,
        names.QUEUED_S: queued_s, names.INFERRED_S: inferred_s,
    }  # fmt: skip
