"""Statistics extension: cumulative counts and durations of each version, in the words of the protocol."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tta_agent.serving.server.engine import Answer, Execution

_KEPT = 8  # versions: two are loaded, and those before them may come back
_OF_REQUESTS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
_OF_BATCHES = ("compute_input", "compute_infer", "compute_output")


@dataclass(slots=True)
class Duration:
    """Cumulative duration."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """Count one more."""
        self.count, self.ns = self.count + 1, self.ns + ns


@dataclass(slots=True)
class VersionStatistics:
    """Statistics of one version.

    Attributes:
        inferences: samples that were answered.
        batches: durations of executions by their size in samples.
    """

    last_ms: int = 0
    inferences: int = 0
    executions: int = 0
    requests: Mapping[str, Duration] = field(default_factory=lambda: {n: Duration() for n in _OF_REQUESTS})
    batches: dict[int, Mapping[str, Duration]] = field(default_factory=dict)

    def add(self, execution: Execution) -> None:
        """Count one execution and the requests in it."""
        self.last_ms = int(time.time() * 1000)
        for answer in execution.answers:
            if isinstance(answer, Answer):
                self._add_answer(answer)
            else:
                self.requests["fail"].add(execution.infer_ns)
        if any(isinstance(answer, Answer) for answer in execution.answers):
            self.executions += 1
            of_size = self.batches.setdefault(execution.samples, {n: Duration() for n in _OF_BATCHES})
            took_ns = (execution.input_ns, execution.infer_ns, execution.output_ns)
            for name, ns in zip(_OF_BATCHES, took_ns, strict=True):
                of_size[name].add(ns)

    def _add_answer(self, answer: Answer) -> None:
        self.inferences += len(answer.x)
        parts_ns = (answer.queue_ns, answer.input_ns, answer.infer_ns, answer.output_ns)
        for name, ns in zip(_OF_REQUESTS, (sum(parts_ns), None, *parts_ns), strict=True):
            if ns is not None:
                self.requests[name].add(ns)

    def as_json(self, model: str, number: int) -> dict[str, Any]:
        """One entry of `model_stats`."""
        batches = [
            {"batch_size": size, **_as_json(durations)} for size, durations in sorted(self.batches.items())
        ]
        return {
            "name": model, "version": str(number), "last_inference": self.last_ms,
            "inference_count": self.inferences, "execution_count": self.executions,
            "inference_stats": _as_json(self.requests), "batch_stats": batches,
        }  # fmt: skip


class ModelStatistics:
    """Statistics of the versions of one model. Not thread-safe: the event loop owns it."""

    def __init__(self) -> None:
        """Start at zero."""
        self._by_version: dict[int, VersionStatistics] = {}

    def add(self, execution: Execution) -> None:
        """Count one execution; the version that has not been run for longest gives way to a ninth."""
        found = self._by_version.pop(execution.version, None) or VersionStatistics()
        self._by_version[execution.version] = found
        found.add(execution)
        while len(self._by_version) > _KEPT:
            del self._by_version[next(iter(self._by_version))]

    def as_json(self, model: str, numbers: Sequence[int]) -> dict[str, Any]:
        """Statistics of these versions, as the protocol has them."""
        found = {n: self._by_version.get(n, VersionStatistics()) for n in numbers}
        return {"model_stats": [entry.as_json(model, n) for n, entry in found.items()]}


def _as_json(durations: Mapping[str, Duration]) -> dict[str, dict[str, int]]:
    return {name: {"count": one.count, "ns": one.ns} for name, one in durations.items()}
