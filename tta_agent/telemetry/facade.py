"""Telemetry of the agent: the span tree of a round and its metrics, behind typed one-liners.

One trace a round: `process` is its root, linked (not parented) to the requests in it. Deciding and swapping
happen later on another thread; they join the trace by the carrier that `context()` gives:

    with telemetry.process(topic, traceparents):        # worker
        with telemetry.adapt() as stage:
            stage.adapted(report)
        carrier = telemetry.context()
    with telemetry.gate(carrier) as stage:              # publisher, later
        stage.finding(finding)

Names, units and buckets are in names.py, exporters in export.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from opentelemetry.trace import SpanKind

from tta_agent.core.types import Array
from tta_agent.telemetry import names
from tta_agent.telemetry.metrics import Attributes, Instruments
from tta_agent.telemetry.spans import Spans, Stage

if TYPE_CHECKING:
    from tta_agent.telemetry.export import Providers

__all__ = ["Stage", "Telemetry"]

_SCOPE = "tta_agent"


class Telemetry:
    """Spans and metrics of one agent. Thread-safe; no call raises or waits for a collector."""

    def __init__(
        self,
        providers: Providers | None,
        service_version: str = "",
        *,
        system: str = "kafka",
        group: str = "",
        policy: str = "",
        source: str = "",
    ) -> None:
        self._providers = providers
        tracers, meters = (providers.tracer, providers.meter) if providers else (None, None)
        tracer = tracers.get_tracer(_SCOPE, service_version) if tracers else None
        self._metrics = Instruments(meters.get_meter(_SCOPE, service_version) if meters else None)
        self._spans = Spans(tracer, self._metrics)
        self._stream = {names.SYSTEM: system, **({names.GROUP: group} if group else {})}
        self._policy, self._source = policy, source

    @classmethod
    def from_environment(
        cls,
        service_version: str,
        *,
        system: str = "kafka",
        group: str = "",
        policy: str = "",
        source: str = "",
        scraped: bool = False,
    ) -> Telemetry:
        """Telemetry as the OTEL_* variables ask for. Raises ConfigError where they cannot be understood.

        Args:
            service_version: release of the agent.
            system: messaging system of the records, for `messaging.system`.
            group: consumer group, where there is one.
            policy: adaptation method, for `tta.policy`.
            source: name of the deployed model, for `tta.model.source`.
            scraped: metrics are kept for `exposition`.
        """
        from tta_agent.telemetry.export import (
            build,  # the SDK and its exporters, only where they may be needed
        )

        about = {"system": system, "group": group, "policy": policy, "source": source}
        return cls(build(service_version, scraped=scraped), service_version, **about)

    @classmethod
    def off(cls) -> Telemetry:
        """Telemetry that records nothing and costs next to nothing."""
        return cls(None)

    def exposition(self) -> bytes | None:
        """Metrics of now in the text format of Prometheus, or None where they are not kept for a scrape."""
        return self._providers.exposition() if self._providers else None

    def flush(self, timeout_s: float = 5.0) -> None:
        """Send the waiting data; gives up after `timeout_s`."""
        if self._providers is not None:
            self._providers.flush(timeout_s)

    def shutdown(self, timeout_s: float = 5.0) -> None:
        """Flush and stop; gives up after `timeout_s`. Idempotent."""
        providers, self._providers = self._providers, None
        if providers is not None:
            providers.shutdown(timeout_s)

    def context(self) -> str | None:
        """Carrier of the span that is open on this thread (a W3C traceparent), or None."""
        return self._spans.carrier()

    # The spans of a round, in the order of the round. A carrier puts a span under the one it was taken from.

    def poll(self, topic: str, count: int, started_s: float | None = None) -> AbstractContextManager[Stage]:
        """One poll that brought records; they are counted, too. `started_s` (epoch) is the begin of the poll."""
        about = self._messaging(names.POLL, "receive", topic)
        self._metrics.add(names.CONSUMED, count, about.copy())
        about[names.MESSAGE_COUNT] = count
        return self._spans.open(f"{names.POLL} {topic}", about, kind=SpanKind.CLIENT, start_s=started_s)

    @contextmanager
    def process(
        self, topic: str, traceparents: Sequence[str | None], carrier: str | None = None
    ) -> Iterator[Stage]:
        """The round, with one traceparent (or None) a record. Take `context()` directly inside of it."""
        links, dropped = self._spans.links(traceparents)
        about = self._messaging(names.PROCESS, "process", topic)
        about |= {names.MESSAGE_COUNT: len(traceparents), names.LINKS_DROPPED: dropped}
        span = self._spans.open(
            f"{names.PROCESS} {topic}", about, kind=SpanKind.CONSUMER, carrier=carrier, links=links
        )
        with self._timed(names.PROCESS_DURATION), span as stage:
            yield stage

    def score(self) -> AbstractContextManager[Stage]:
        """The learning forward pass and the scores."""
        return self._spans.open(names.SCORE)

    def select(self) -> AbstractContextManager[Stage]:
        """The selection of samples that teach; tell the stage what was `selected`."""
        return self._spans.open(names.SELECT)

    @contextmanager
    def adapt(self) -> Iterator[Stage]:
        """The adaptation step; tell the stage what was `adapted`."""
        span = self._spans.open(names.ADAPT, {names.POLICY: self._policy} if self._policy else None)
        with self._timed(names.ADAPT_DURATION), span as stage:
            yield stage

    def gate(self, carrier: str | None = None) -> AbstractContextManager[Stage]:
        """The decision on a candidate; tell the stage each `finding`."""
        return self._spans.open(names.GATE, carrier=carrier)

    def export(self, carrier: str | None = None) -> AbstractContextManager[Stage]:
        """The export of the candidate's graph; tell the stage what was `exported`."""
        return self._spans.open(names.EXPORT, carrier=carrier)

    def swap(
        self, driver: str, from_version: int, to_version: int, carrier: str | None = None
    ) -> AbstractContextManager[Stage]:
        """The swap of a version into the server."""
        about: Attributes = {
            names.SWAP_DRIVER: driver,
            names.SWAP_FROM: from_version,
            names.SWAP_TO: to_version,
        }
        return self._spans.open(names.SWAP, about, carrier=carrier)

    def verify(self, carrier: str | None = None) -> AbstractContextManager[Stage]:
        """The check of the server's answers to the golden batch."""
        return self._spans.open(names.VERIFY, carrier=carrier)

    def commit(self, topic: str, carrier: str | None = None) -> AbstractContextManager[Stage]:
        """The commit of the group's offsets."""
        about = self._messaging(names.COMMIT, "settle", topic)
        return self._spans.open(f"{names.COMMIT} {topic}", about, kind=SpanKind.CLIENT, carrier=carrier)

    # Metrics that no span above records.

    def samples(self, outcome: str, count: int = 1) -> None:
        """Count samples by outcome: kept, rejected_<why>, stale, duplicate, undecodable."""
        self._metrics.add(names.SAMPLES, count, {names.OUTCOME: outcome})

    def dropped(self, reason: str, count: int = 1) -> None:
        """Count messages that could not be handed on and were given up: dead_letter, label_request, webhook_event."""
        self._metrics.add(names.DROPPED, count, {names.REASON: reason})

    def scores(self, entropy_nats: Array, confidence: Array, classes: int) -> None:
        """Record entropy and greatest probability of a batch, [B] each; of larger batches 16 ranks."""
        if self._metrics.on:
            self._metrics.record_batch(names.ENTROPY, entropy_nats / math.log(max(classes, 2)))
            self._metrics.record_batch(names.CONFIDENCE, confidence)

    def round_done(self, result: str, newest_s: float | None = None) -> None:
        """Count a round by result: adapted, skipped; `newest_s` (epoch) is the time of its newest record."""
        self._metrics.add(names.ROUNDS, 1, {names.RESULT: result})
        if newest_s is not None:
            self._metrics.set(names.FRESHNESS, max(0.0, time.time() - newest_s))

    def stream(self, lag: int, queue_bytes: int) -> None:
        """Record the lag behind the stream, and the bytes that wait in memory."""
        self._metrics.set(names.LAG, lag)
        self._metrics.set(names.QUEUE_BYTES, queue_bytes)

    def swap_done(self, result: str, duration_s: float) -> None:
        """Count a swap by result: activated, failed, rolled_back, fell_back or reinstated."""
        self._metrics.add(names.SWAPS, 1, {names.RESULT: result})
        self._metrics.record(names.SWAP_DURATION, duration_s)

    def model(self, version: int, sha256: str, proof: str) -> None:
        """Record the served version and its proof; every span from here on is stamped with the version."""
        self._spans.version = version
        about: Attributes = {names.MODEL_VERSION: version, names.MODEL_SHA256: sha256, names.PROOF: proof}
        known = {names.POLICY: self._policy, names.MODEL_SOURCE: self._source}
        self._metrics.set(
            names.MODEL_INFO, 1, {**about, **{name: text for name, text in known.items() if text}}
        )

    def drift(self, distances: Mapping[str, float]) -> None:
        """Record the distance of the latest records from those before them in standard errors, by feature."""
        for feature, distance in distances.items():
            self._metrics.set(names.DRIFT_DISTANCE, distance, {names.FEATURE: feature})

    def accuracy_realised(self, version: int, accuracy: float) -> None:
        """Record the share of labelled records that a version answered correctly; the newest 8 versions are kept."""
        self._metrics.set(names.ACCURACY, accuracy, {names.MODEL_VERSION: version})

    def _messaging(self, operation: str, kind: str, topic: str) -> dict[str, str | int | float]:
        about = {names.OPERATION_NAME: operation, names.OPERATION_TYPE: kind, names.DESTINATION: topic}
        return {**self._stream, **about}

    @contextmanager
    def _timed(self, metric: names.Metric) -> Iterator[None]:
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self._metrics.record(metric, time.perf_counter() - start_s)
