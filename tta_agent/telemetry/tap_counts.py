"""Counts of the taps in this process, by whatever meter provider it has set up."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from tta_agent.telemetry import names

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter


class CountedTap(Protocol):
    """A tap as its metrics see it."""

    def counts(self) -> dict[str, int]:
        """Inferences by outcome, and `queued_bytes`."""


_taps: weakref.WeakKeyDictionary[CountedTap, str] = weakref.WeakKeyDictionary()


def observe(tap: CountedTap, topic: str) -> None:
    """Observe the counts of a tap for as long as it is in use; nothing where OpenTelemetry is not installed."""
    _taps[tap] = topic
    _create()


@functools.cache
def _create() -> None:
    """Create the instruments, once. The provider may be set later, or never."""
    try:
        from opentelemetry import metrics
    except ImportError:
        return
    create(metrics.get_meter("tta_agent.tap"))


def create(meter: Meter) -> None:
    """Create the instruments on a meter."""
    about = names.TAP_MESSAGES
    meter.create_observable_counter(about.name, [lambda _: _messages()], about.unit, about.description)
    about = names.TAP_QUEUE_BYTES
    meter.create_observable_gauge(about.name, [lambda _: _queue_bytes()], about.unit, about.description)


def _messages() -> Iterable[Any]:
    outcomes = ("sent", "dropped", "errors", "too_large", "failed", "left_out")
    return _sums({outcome: {names.OUTCOME: outcome} for outcome in outcomes})


def _queue_bytes() -> Iterable[Any]:
    return _sums({"queued_bytes": {}})


def _sums(wanted: dict[str, dict[str, str]]) -> Iterator[Any]:
    """One observation for each topic and wanted count."""
    from opentelemetry.metrics import Observation

    found = [(topic, tap.counts()) for tap, topic in list(_taps.items())]
    for topic in sorted({topic for topic, _ in found}):
        for name, attributes in wanted.items():
            total = sum(counts[name] for where, counts in found if where == topic)
            yield Observation(total, {names.DESTINATION: topic, **attributes})
