"""Inference of requests: bodies in, answers out. Runs in worker threads; shares nothing but the pair of sessions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import uuid4

import numpy as np
from starlette.exceptions import HTTPException

from tta_agent.core.errors import DecodeError, GraphError
from tta_agent.core.types import Array
from tta_agent.models.ort_sessions import HotSwapSession, Session, raw_answer, shapes
from tta_agent.serving.server import classification
from tta_agent.serving.server.warming import Warmth
from tta_agent.stream.codecs import checks, oip
from tta_agent.web import compression


@dataclass(frozen=True, slots=True)
class Question:
    """Request of an inference as it came.

    Attributes:
        body: decompressed.
        head_length: bytes of JSON before raw tensors; None: all of it is JSON.
        number: version that is to answer; None: the live one.
        gzip: the answer may be compressed.
        came_ns: when the body was complete, of `time.perf_counter_ns`.
    """

    body: bytes
    head_length: int | None
    number: int | None
    gzip: bool = False
    came_ns: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """Request that is read and checked, and the session that is to answer it.

    Attributes:
        x: samples [N, ...].
        binary: the answer is wanted as raw tensor.
        classes: the answer is wanted as so many best classes; None: as it is.
        queue_ns, read_ns: it waited until it was read, and was read for so long.
        ready_ns: when it had been read.
    """

    id: str
    x: Array
    version: int
    session: Session
    binary: bool
    classes: int | None
    gzip: bool
    queue_ns: int
    read_ns: int
    ready_ns: int

    @property
    def joins(self) -> bool:
        """Whether it may run together with others: the graph takes any number of samples."""
        return not isinstance(self.session.get_inputs()[0].shape[0], int)


@dataclass(frozen=True, slots=True)
class Answer:
    """Request and answer of one inference, the answer as it is sent, and how long its parts took.

    Attributes:
        batch: samples in the run that answered it.
    """

    id: str
    x: Array
    logits: Array
    version: int
    body: bytes
    headers: Mapping[str, str]
    batch: int
    queue_ns: int
    input_ns: int
    infer_ns: int
    output_ns: int


@dataclass(frozen=True, slots=True)
class Execution:
    """One run of a session: all its requests have the same version and shape of samples.

    Attributes:
        answers: one for each task, in order; the error where it has none.
        samples: of all of them.
    """

    version: int
    answers: Sequence[Answer | Exception]
    samples: int
    input_ns: int
    infer_ns: int
    output_ns: int


class Engine:
    """Inference engine of the served model."""

    def __init__(
        self,
        model: str,
        pair: HotSwapSession,
        warmth: Warmth,
        input_name: str,
        output_name: str,
        max_batch: int,
    ) -> None:
        """Take the names of model and tensors in the API; the graph may use others."""
        self.model, self.input, self.output, self.max_batch = model, input_name, output_name, max_batch
        self._pair, self._warmth = pair, warmth

    def read(self, question: Question) -> Task:
        """Read a request for one version, or for the live one.

        Raises:
            DecodeError: the request is malformed or not what the model takes.
            HTTPException: 404 where the version is not loaded, 413 where there are too many samples.
        """
        began_ns = time.perf_counter_ns()
        version, session = self.session(question.number)
        request = oip.decode(question.body, question.head_length)
        x = self._samples(request, session)
        self._check_wanted(request)
        classes = classification.wanted(request, self.output, session)
        id = checks.text(request.id, "id") if request.id else str(uuid4())
        queue_ns, ready_ns = began_ns - (question.came_ns or began_ns), time.perf_counter_ns()
        return Task(
            id, x, version, session, self._wants_binary(request), classes, question.gzip,
            queue_ns, ready_ns - began_ns, ready_ns,
        )  # fmt: skip

    def run(self, tasks: Sequence[Task]) -> list[Execution]:
        """Run tasks of one version and shape together; where that fails, each alone."""
        try:
            return [self._run(tasks)]
        except GraphError as error:
            if len(tasks) > 1:
                return [execution for task in tasks for execution in self.run([task])]
            return [Execution(tasks[0].version, [error], len(tasks[0].x), 0, 0, 0)]

    def answer(self, question: Question) -> Execution:
        """Read and run one request alone; raises as `read` does."""
        return self.run([self.read(question)])[0]

    def _run(self, tasks: Sequence[Task]) -> Execution:
        began_ns = time.perf_counter_ns()
        alone = len(tasks) == 1
        x = tasks[0].x if alone else np.concatenate([task.x for task in tasks])
        joined_ns = time.perf_counter_ns()
        logits = raw_answer(tasks[0].session, x)
        if not alone and len(logits) != len(x):
            raise GraphError(f"{len(x)} samples have {len(logits)} answers")
        ran_ns = time.perf_counter_ns()
        self._warmth.ran(tasks[0].session, x.shape)
        took_ns = (began_ns, joined_ns, ran_ns)
        rows = [logits] if alone else np.split(logits, np.cumsum([len(task.x) for task in tasks])[:-1])
        answers = [self._answered(t, row, len(x), took_ns) for t, row in zip(tasks, rows, strict=True)]
        output_ns = time.perf_counter_ns() - ran_ns
        return Execution(
            tasks[0].version, answers, len(x), joined_ns - began_ns, ran_ns - joined_ns, output_ns
        )

    def _answered(
        self, task: Task, logits: Array, batch: int, took_ns: tuple[int, int, int]
    ) -> Answer | Exception:
        began_ns, joined_ns, ran_ns = took_ns
        at_ns = time.perf_counter_ns()
        try:
            body, headers = self._sent(task, logits)
        except Exception as error:  # of this one, not of those that ran with it
            return error
        return Answer(
            task.id, task.x, logits, task.version, body, headers, batch,
            task.queue_ns + began_ns - task.ready_ns, task.read_ns + joined_ns - began_ns, ran_ns - joined_ns,
            time.perf_counter_ns() - at_ns,
        )  # fmt: skip

    def _sent(self, task: Task, logits: Array) -> tuple[bytes, Mapping[str, str]]:
        """Body and headers of an answer, compressed where that is allowed and pays."""
        found = logits if task.classes is None else classification.best(logits, task.classes)
        response = oip.Body({}, {self.output: found}, task.id, self.model, str(task.version))
        body, length = oip.encode(response, binary=task.binary)
        kind = "application/json" if length is None else "application/octet-stream"
        headers = {"content-type": kind} | ({} if length is None else {oip.HEAD_LENGTH: str(length)})
        smaller = compression.compressed(body) if task.gzip else None
        return (body, headers) if smaller is None else (smaller, {**headers, "content-encoding": "gzip"})

    def session(self, number: int | None) -> tuple[int, Session]:
        """A version and its session, or the live one's.

        Raises:
            HTTPException: 404, it is not loaded.
        """
        if number is None:
            return self._pair.current()
        session = self._pair.get(number)
        if session is None:
            raise HTTPException(404, f"version {number} of {self.model} is not loaded")
        return number, session

    def loaded(self) -> list[int]:
        """Versions that answer, the live one first."""
        return [n for n in (self._pair.current()[0], self._pair.standby) if n is not None]

    def _samples(self, request: oip.Body, session: Session) -> Array:
        x = checks.only(request.inputs, "input")
        if self.input not in request.inputs:
            found = ", ".join(request.inputs)
            raise DecodeError("input_name", f"input is called {found}; expected {self.input}")
        if x.ndim and x.shape[0] > self.max_batch:
            limit = f"the largest batch is {self.max_batch} (TTA_SERVE__MAX_BATCH)"
            raise HTTPException(413, f"{x.shape[0]} samples in one request; {limit}: send several requests")
        return checks.samples(x, shapes(session)[0])

    def _check_wanted(self, request: oip.Body) -> None:
        unknown = ", ".join(request.wanted.keys() - {self.output})
        if unknown:
            raise DecodeError("output_name", f"no output is called {unknown}; expected {self.output}")

    def _wants_binary(self, request: oip.Body) -> bool:
        wish = request.wanted.get(self.output)
        return bool(request.parameters.get("binary_data_output", False) if wish is None else wish)
