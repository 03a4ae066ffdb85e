"""Handlers of what the server says of itself and of its model."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

import tta_agent
from tta_agent.models.ort_sessions import answer_shape, shapes
from tta_agent.serving.server.engine import Engine
from tta_agent.serving.server.inference import Inference
from tta_agent.serving.server.loads import target
from tta_agent.serving.server.repository import Repository
from tta_agent.telemetry.server import ServerTelemetry
from tta_agent.web.bodies import AsciiJSON

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics")
_PLATFORM = "onnxruntime_onnx"


class Rest:
    """Handlers of metadata, configuration, statistics and health, on the event loop."""

    def __init__(
        self, engine: Engine, repository: Repository, inference: Inference, telemetry: ServerTelemetry
    ) -> None:
        self._engine, self._repository, self._inference = engine, repository, inference
        self._telemetry = telemetry

    async def about(self, request: Request) -> Response:
        """The server and its extensions."""
        about = {"name": "tta-agent", "version": tta_agent.__version__}
        return AsciiJSON({**about, "extensions": list(EXTENSIONS)})

    async def stats(self, request: Request) -> Response:
        """Counts, latencies, versions, and what the tap did."""
        marks = {entry["reason"]: int(entry["version"]) for entry in self._repository.index()}
        about = {"model": self._engine.model, "live": marks["live"], "previous": marks.get("previous")}
        now = {"active": self._inference.drain.active, "waiting": self._inference.waiting}
        counts = {**self._inference.stats.snapshot(), **now}
        return AsciiJSON({**about, **counts, "tap": self._inference.tap_counts()})

    async def statistics(self, request: Request) -> Response:
        """Cumulative counts and durations of one version, or of all that are loaded."""
        number = target(request, self._engine.model)
        numbers = self._engine.loaded() if number is None else [self._engine.session(number)[0]]
        return AsciiJSON(self._inference.statistics.as_json(self._engine.model, numbers))

    async def metrics(self, request: Request) -> Response:
        """Metrics in the text format of Prometheus."""
        text = await asyncio.get_running_loop().run_in_executor(None, self._telemetry.exposition)
        if text is None:
            told = "no metrics are kept: OTEL_SDK_DISABLED or OTEL_METRICS_EXPORTER=none says so"
            raise HTTPException(404, told)
        return Response(text, media_type="text/plain; version=0.0.4")

    async def is_live(self, request: Request) -> Response:
        """The process answers."""
        return AsciiJSON({"live": True})

    async def is_ready(self, request: Request) -> Response:
        """A session is loaded: there always is one. 503 once the server has been told to stop."""
        return self._readiness({})

    async def metadata(self, request: Request) -> Response:
        """Names and shapes of the tensors."""
        model, (one, answer) = self._engine.model, self._dims(request)
        tensors = {
            "inputs": [{"name": self._engine.input, "datatype": "FP32", "shape": [-1, *one]}],
            "outputs": [{"name": self._engine.output, "datatype": "FP32", "shape": [-1, *answer]}],
        }
        versions = [str(number) for number in self._engine.loaded()]
        return AsciiJSON({"name": model, "versions": versions, "platform": _PLATFORM, **tensors})

    async def config(self, request: Request) -> Response:
        """Configuration of the model, as far as a server of one ONNX file has one."""
        engine, (one, answer) = self._engine, self._dims(request)
        batching, joined = self._inference.batching, {}
        if batching.size > 1:
            delay = {"max_queue_delay_microseconds": round(batching.delay_s * 1e6)}
            joined = {"dynamic_batching": {"preferred_batch_size": [batching.size], **delay}}
        return AsciiJSON({
            "name": engine.model, "platform": _PLATFORM, "backend": "onnxruntime",
            "version_policy": {"latest": {"num_versions": 2}}, "max_batch_size": engine.max_batch,
            "input": [{"name": engine.input, "data_type": "TYPE_FP32", "dims": one}],
            "output": [{"name": engine.output, "data_type": "TYPE_FP32", "dims": answer}],
            "instance_group": [{"name": engine.model, "count": self._inference.threads}],
            **joined,
        })  # fmt: skip

    async def ready(self, request: Request) -> Response:
        """404 for a version that is not loaded."""
        self._dims(request)
        return self._readiness({"name": self._engine.model})

    def _readiness(self, about: dict[str, str]) -> Response:
        ready = not self._inference.drain.begun
        return AsciiJSON({**about, "ready": ready}, 200 if ready else 503)

    def _dims(self, request: Request) -> tuple[list[int], list[int]]:
        """Shapes of one sample and of its answer in the version that is asked for; -1 stands for any size."""
        _, session = self._engine.session(target(request, self._engine.model))
        sample, answer = shapes(session)[0], answer_shape(session)
        return [-1 if n is None else n for n in sample], [-1 if n is None else n for n in answer]
