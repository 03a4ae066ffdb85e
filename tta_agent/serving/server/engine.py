"""Inference of one request: body in, body out. Runs in a worker thread; shares nothing but the pair of sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import uuid4

from starlette.exceptions import HTTPException

from tta_agent.core.errors import DecodeError
from tta_agent.core.types import Array
from tta_agent.models.ort_sessions import HotSwapSession, Session, answer_shape, raw_answer, shapes
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
    """

    body: bytes
    head_length: int | None
    number: int | None
    gzip: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """Request and answer of one inference, and the answer as it is sent."""

    id: str
    x: Array
    logits: Array
    version: int
    body: bytes
    headers: Mapping[str, str]


class Engine:
    """Inference engine of the served model."""

    def __init__(
        self, model: str, pair: HotSwapSession, input_name: str, output_name: str, max_batch: int
    ) -> None:
        """Take the names of model and tensors in the API; the graph may use others."""
        self.model = model
        self._pair, self._max_batch = pair, max_batch
        self._input, self._output = input_name, output_name

    def answer(self, question: Question) -> Answer:
        """Answer a request with one version, or with the live one.

        Raises:
            DecodeError: the request is malformed or not what the model takes.
            HTTPException: 404 where the version is not loaded, 413 where there are too many samples.
            GraphError: inference failed.
        """
        version, session = self._session(question.number)
        request = oip.decode(question.body, question.head_length)
        x = self._samples(request, session)
        binary = self._wants_binary(request)
        logits = raw_answer(session, x)
        id = checks.text(request.id, "id") if request.id else str(uuid4())
        response = oip.Body({}, {self._output: logits}, id, self.model, str(version))
        return Answer(id, x, logits, version, *_sent(*oip.encode(response, binary=binary), question.gzip))

    def metadata(self, number: int | None) -> dict[str, object]:
        """Name, versions and tensors, as the protocol describes a model."""
        _, session = self._session(number)
        sample, _ = shapes(session)
        loaded = [n for n in (self._pair.current()[0], self._pair.standby) if n is not None]
        return {
            "name": self.model,
            "versions": [str(n) for n in loaded],
            "platform": "onnxruntime_onnx",
            "inputs": [_tensor(self._input, (None, *sample))],
            "outputs": [_tensor(self._output, (None, *answer_shape(session)))],
        }

    def _session(self, number: int | None) -> tuple[int, Session]:
        if number is None:
            return self._pair.current()
        session = self._pair.get(number)
        if session is None:
            raise HTTPException(404, f"version {number} of {self.model} is not loaded")
        return number, session

    def _samples(self, request: oip.Body, session: Session) -> Array:
        x = checks.only(request.inputs, "input")
        if self._input not in request.inputs:
            found = ", ".join(request.inputs)
            raise DecodeError("input_name", f"input is called {found}; expected {self._input}")
        if x.ndim and x.shape[0] > self._max_batch:
            limit = f"the largest batch is {self._max_batch} (TTA_SERVE__MAX_BATCH)"
            raise HTTPException(413, f"{x.shape[0]} samples in one request; {limit}: send several requests")
        return checks.samples(x, shapes(session)[0])

    def _wants_binary(self, request: oip.Body) -> bool:
        unknown = ", ".join(request.wanted.keys() - {self._output})
        if unknown:
            raise DecodeError("output_name", f"no output is called {unknown}; expected {self._output}")
        wish = request.wanted.get(self._output)
        return bool(request.parameters.get("binary_data_output", False) if wish is None else wish)


def _sent(body: bytes, head_length: int | None, gzip: bool) -> tuple[bytes, Mapping[str, str]]:
    """Body and headers of an answer, compressed where that is allowed and pays."""
    kind = "application/json" if head_length is None else "application/octet-stream"
    headers = {"content-type": kind} | ({} if head_length is None else {oip.HEAD_LENGTH: str(head_length)})
    smaller = compression.compressed(body) if gzip else None
    return (body, headers) if smaller is None else (smaller, {**headers, "content-encoding": "gzip"})


def _tensor(name: str, shape: tuple[int | None, ...]) -> dict[str, object]:
    return {"name": name, "datatype": "FP32", "shape": [-1 if n is None else n for n in shape]}
