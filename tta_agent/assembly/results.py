"""Settings to the writer of results, and its place among the stages: beside them, and durable before a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from tta_agent.adaptation.step import StepResult
from tta_agent.core.stream_protocols import Producer
from tta_agent.settings.schema import Settings
from tta_agent.stream.batcher import Batch
from tta_agent.stream.outbox import Outbox
from tta_agent.stream.results import ResultWriter

Observer: TypeAlias = Callable[[Batch, StepResult], None]


def open_results(
    settings: Settings, producer: Producer, dropped: Callable[[str, int], None]
) -> ResultWriter | None:
    """The writer to TTA_STREAM__OUTPUT; None where there is no such topic."""
    return ResultWriter(producer, settings.stream.output, dropped) if settings.stream.output else None


def with_results(results: ResultWriter | None, observer: Observer | None) -> Observer | None:
    """Observer of rounds that has their results written, too."""
    if results is None:
        return observer

    def observe(batch: Batch, done: StepResult) -> None:
        results.write(batch, done)
        if observer:
            observer(batch, done)

    return observe


def flushed_before(results: ResultWriter | None, fence: Callable[[], None]) -> Callable[[], None]:
    """The fence of a checkpoint, after the results of its records are durable (or lost, which is counted)."""
    if results is None:
        return fence

    def settle() -> None:
        results.flush()
        fence()

    return settle


def closing(results: ResultWriter | None, outbox: Outbox) -> Callable[[], None]:
    """Sends what waits, at the end."""

    def close() -> None:
        if results is not None:
            results.close()
        outbox.close()

    return close
