"""Instruments of the declared metrics. Without a meter every call returns at once."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import numpy as np
from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, Observation

from tta_agent.core.types import Array
from tta_agent.telemetry import names
from tta_agent.telemetry.names import Metric

Attributes: TypeAlias = Mapping[str, str | int | float]

_SPREAD = 16  # values of a batch that a histogram gets


class Instruments:
    """Counters, histograms and gauges as declared. Thread-safe.

    A value that is NaN or infinite is not recorded but counted in `tta.nonfinite`: the SDK would drop it in
    silence, and a loss that is never finite would look like no data.
    """

    def __init__(self, meter: Meter | None, metrics: Iterable[Metric] = names.METRICS) -> None:
        self.on = meter is not None
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self._reads: dict[str, Callable[[], float]] = {}
        self._gauges: dict[str, dict[tuple[tuple[str, str | int | float], ...], float]] = {}
        self._lock = threading.Lock()
        if meter is not None:
            for metric in metrics:
                self._create(meter, metric)

    def add(self, metric: Metric, count: int, attributes: Attributes | None = None) -> None:
        """Increase a counter."""
        if self.on and count > 0:
            self._counters[metric.name].add(count, attributes)

    def record(self, metric: Metric, value: float, attributes: Attributes | None = None) -> None:
        """Record one value of a distribution."""
        if self.on and self._finite(metric, value):
            self._histograms[metric.name].record(value, attributes)

    def record_batch(self, metric: Metric, values: Array) -> None:
        """Record the distribution of a batch, clipped to 0..1: all values of up to 16, else 16 evenly spaced ranks.

        A record costs about 3 microseconds, so that 64 values in each of two histograms would cost 0.4 ms a
        round. The shape of the distribution is kept; the histogram's count is not the number of samples.
        """
        if not self.on:
            return
        flat = np.ravel(values)
        finite = np.sort(flat[np.isfinite(flat)]).clip(0.0, 1.0)
        self._count_nonfinite(metric, flat.size - finite.size)
        if finite.size > _SPREAD:
            finite = finite[((np.arange(_SPREAD) + 0.5) * finite.size / _SPREAD).astype(int)]
        histogram = self._histograms[metric.name]
        for value in finite.tolist():
            histogram.record(value)

    def set(self, metric: Metric, value: float, attributes: Attributes | None = None) -> None:
        """Set a gauge; it keeps only the newest few sets of attributes (`Metric.series`)."""
        if not self.on or not self._finite(metric, value):
            return
        key = tuple((attributes or {}).items())
        with self._lock:
            series = {k: v for k, v in self._gauges[metric.name].items() if k != key}
            series[key] = float(value)
            while len(series) > metric.series:
                del series[next(iter(series))]
            self._gauges[metric.name] = series

    def read(self, metric: Metric, value: Callable[[], float]) -> None:
        """Have a gauge read its value whenever it is observed, from any thread."""
        if self.on:
            self._reads[metric.name] = value

    def _create(self, meter: Meter, metric: Metric) -> None:
        about = (metric.name, metric.unit, metric.description)
        if metric.kind == "counter":
            self._counters[metric.name] = meter.create_counter(*about)
        elif metric.kind == "histogram":
            self._histograms[metric.name] = meter.create_histogram(
                *about, explicit_bucket_boundaries_advisory=list(metric.buckets)
            )
        else:
            self._gauges[metric.name] = {}
            meter.create_observable_gauge(metric.name, [self._observer(metric.name)], metric.unit, about[2])

    def _observer(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        # Observed, not set: a series that is replaced (the version that served before) ends.
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            if name in self._reads:
                return [Observation(self._reads[name]())]
            return [Observation(value, dict(key)) for key, value in self._gauges[name].items()]

        return observe

    def _finite(self, metric: Metric, value: float) -> bool:
        finite = math.isfinite(value)
        if not finite:
            self._count_nonfinite(metric, 1)
        return finite

    def _count_nonfinite(self, metric: Metric, count: int) -> None:
        self.add(names.NONFINITE, count, {names.PLACE: metric.name})
