"""The composition root: settings to an agent. The only module that sees all sides."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import tta_agent
from tta_agent.adaptation.step import StepResult
from tta_agent.assembly import checks
from tta_agent.assembly.copy import describe, fingerprint, load_source, make_adaptation, method
from tta_agent.assembly.interface import open_interface
from tta_agent.assembly.results import closing, flushed_before, open_results, with_results
from tta_agent.assembly.rollout import make_rollout
from tta_agent.core.errors import SwapError
from tta_agent.core.protocols import ServerDriver
from tta_agent.core.stream_protocols import Codec, LossyConsumer, Producer, StreamConsumer
from tta_agent.labels.join import LabelJoiner
from tta_agent.models import loader
from tta_agent.models.onnx_export import GraphTemplate
from tta_agent.pipeline.agent import Agent
from tta_agent.pipeline.cadence import Cadence
from tta_agent.pipeline.duty_cycle import DutyCycle
from tta_agent.pipeline.learner import LearnerStage
from tta_agent.pipeline.record_counts import RecordCounts
from tta_agent.pipeline.signals import Signals
from tta_agent.registry import factory as registries
from tta_agent.registry.names import VersionNames
from tta_agent.registry.registry import ModelRegistry
from tta_agent.serving.deployment import ServedModel
from tta_agent.serving.drivers import open_driver
from tta_agent.serving.drivers.none import NoDriver
from tta_agent.settings.schema import Settings
from tta_agent.stream import topic_names
from tta_agent.stream.batcher import Batch, Batcher
from tta_agent.stream.decoder import Decoder
from tta_agent.stream.factory import open_codec, open_log, open_source
from tta_agent.stream.holdout import secret_of
from tta_agent.stream.outbox import Outbox
from tta_agent.stream.response_join import ResponseJoiner
from tta_agent.stream.router import RecordRouter
from tta_agent.stream.sampling import WindowSample
from tta_agent.telemetry.event_log import EventLog
from tta_agent.telemetry.facade import Telemetry

__all__ = [
    "agent", "assemble", "describe", "fingerprint", "load_source", "make_adaptation", "open_interface",
    "open_registry",
]  # fmt: skip
LAST_WORDS_S = 2.0  # for dead letters and label requests, at the end
log = logging.getLogger(__name__)


def open_registry(
    settings: Settings, source: loader.DeployedModel, template: GraphTemplate | None = None
) -> ModelRegistry:
    """The registry, with the source as version 0."""
    registry = registries.open_registry(settings)

    def make() -> tuple[bytes, Any]:
        graph = template or GraphTemplate(source.module, source.shape, source.graph)
        return graph.compose(source.module), graph.fixed

    data = source.graph.data if source.graph else None
    registry.ensure_source(fingerprint(source.module), make, data)
    return registry


def agent(
    settings: Settings, source: loader.DeployedModel, *, fence: Callable[[], None] = lambda: None
) -> Agent:
    """Everything, wired around the deployed model.

    Args:
        fence: called before every write to checkpoint and registry; raises where another agent has taken over.

    Raises:
        ConfigError: a setting, file or plugin that does not fit.
        StreamError, SwapError: broker or server cannot be reached.
    """
    s = settings.stream
    stream = open_source(settings, [t for t in (s.topic, s.labels_topic, s.responses_topic) if t])
    telemetry, producer = open_telemetry(settings), open_log(settings, list(_written(settings)))
    driver, salt = _driver(settings, source.output.name), secret_of(settings.store.path)
    return assemble(settings, source, stream, producer, driver, telemetry, fence=fence, salt=salt)


def open_telemetry(settings: Settings) -> Telemetry:
    """Spans and metrics as the OTEL_* variables ask for.

    Raises:
        ConfigError: they cannot be understood.
    """
    m = settings.model
    return Telemetry.from_environment(
        tta_agent.__version__,
        system=settings.stream.kind,
        group=settings.stream.group,
        policy=method(settings),
        source=m.name or m.factory or (m.onnx.name if m.onnx else ""),
        scraped=settings.http.port is not None,
    )


def assemble(
    settings: Settings,
    source: loader.DeployedModel,
    stream: StreamConsumer,
    producer: Producer,
    driver: ServerDriver,
    telemetry: Telemetry,
    *,
    template: GraphTemplate | None = None,
    codec: Codec | None = None,
    clock: Callable[[], float] = time.time,
    observer: Callable[[Batch, StepResult], None] | None = None,
    threaded: bool = True,
    fence: Callable[[], None] = lambda: None,
    salt: bytes = b"",
) -> Agent:
    """The agent around parts that are already open (replay and tests bring their own).

    Args:
        template: the source's graph where it has been exported already, which takes seconds.
        codec: wire format of the stream; that of the settings where not given.
        clock: seconds since the epoch, for the age of records and batches.
        observer: called with each batch and its result.
        threaded: stages in threads of their own; False calls them directly and times no graph, so that a replay
            decides the same on a busy machine.
        fence: as in `agent`.
        salt: of the hold-out; a replay has none, so that it can be repeated.
    """
    s, journal, signals = settings, EventLog(settings.store.path), Signals()
    recorded = codec is not None  # as the model takes it
    codec = codec or open_codec(s, source.output.name)
    template = template or GraphTemplate(source.module, source.shape, source.graph)
    registry = open_registry(settings, source, template)
    registry.fence(fence)
    counts = RecordCounts(journal, telemetry, max_age_s=s.stream.max_age_s, horizon_s=s.labels.horizon_s)
    if isinstance(stream, LossyConsumer):
        stream.on_lost = counts.lost
    outbox = Outbox(producer, _written(s), counts.lost, close_timeout_s=LAST_WORDS_S, threaded=threaded)
    results = open_results(s, producer, counts.lost) if threaded else None
    rollout = make_rollout(
        s, source, template, registry, driver, outbox, telemetry, journal,
        fingerprint=fingerprint(source.module), clock=clock, salt=salt, timed=threaded,
    )  # fmt: skip
    if s.mode in ("approve", "auto"):
        _when_up(rollout.served, s.swap.timeout_s)
    inputs = None if recorded else checks.input_check(s, source, rollout.served)
    learner = LearnerStage(
        RecordRouter(
            label_store(s, clock), s.select.holdout, s.stream.max_age_s, clock, salt, _sample(s, salt, clock)
        ),
        Batcher(s.adapt.batch_size, s.adapt.max_wait_s),
        make_adaptation(settings, source, telemetry),
        telemetry,
        journal,
        Cadence(s.schedule.candidate_every, s.store.checkpoint_every, s.adapt.batch_size),
        signals,
        counts,
        DutyCycle(s.adapt.rest_share),
        learns=s.mode != "observe",
        check=checks.served_check(s, source, rollout.served, inputs),
        observer=with_results(results, observer),
        clock=clock,
    )
    return Agent(
        stream,
        Decoder(
            codec,
            source.shape,
            source.classes,
            outbox,
            topic_names.dead_letters(s),
            counts.lost,
            output=source.output,
            joiner=ResponseJoiner(s.stream.join_s, s.stream.queue_bytes),
            check=inputs,
            number=VersionNames(registry, s.model.served_version),
        ),
        learner,
        rollout,
        telemetry,
        journal,
        signals,
        counts,
        queue_bytes=s.stream.queue_bytes,
        checkpoint_path=s.store.path / "checkpoint.pt",
        fingerprint=f"{fingerprint(source.module, sites=True)}/{s.adapt.method}",
        threaded=threaded,
        fence=flushed_before(results, fence),
        on_close=closing(results, outbox),
    )


def _written(settings: Settings) -> dict[str, str]:
    """Topics that the agent writes to, and what it writes there."""
    letters, requests = topic_names.dead_letters(settings).values(), settings.labels.requests_topic
    wanted = requests if settings.labels.requests_per_day else None
    kinds = (
        *((topic, "dead_letter") for topic in letters),
        (wanted, "label_request"),
        (settings.stream.output, "result"),
    )
    return {t: kind for t, kind in kinds if t}


def _when_up(served: ServedModel, timeout_s: float) -> None:
    """The server may start later than its sidecar: try until `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    log.info("waiting %.0f s at most for the model server", timeout_s)
    while True:
        try:
            return served.align()
        except SwapError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.5)


def _driver(settings: Settings, output: str | None) -> ServerDriver:
    """The driver of the model server; where the mode swaps nothing, one that touches no server."""
    named = open_driver(settings, output)
    if settings.mode in ("approve", "auto"):
        return named
    named.close()
    return NoDriver()


def _sample(settings: Settings, salt: bytes, clock: Callable[[], float]) -> WindowSample | None:
    s = settings.select
    if s.sample is None:
        return None
    return WindowSample(s.sample, s.sample_window_s, s.tenant_share, salt, clock)


def label_store(settings: Settings, clock: Callable[[], float] = time.time) -> LabelJoiner:
    """Answers that wait for labels, in the store."""
    settings.store.path.mkdir(parents=True, exist_ok=True)
    return LabelJoiner(settings.store.path / "labels.db", horizon_s=settings.labels.horizon_s, clock=clock)
