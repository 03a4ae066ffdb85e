"""Predictions for each record of a stream, and the figures made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tta_agent.bench.arrivals import UNKNOWN
from tta_agent.bench.lagged import NOBODY, change_cost
from tta_agent.bench.streams import LabelledBatch, Stream
from tta_agent.core.types import Array

TAIL = 0.1  # how a stream ends: its last tenth
HEAD = 500  # records of a stream's beginning, on which peers are measured too


class Tally:
    """Record of the online predictions and their cost, in order of arrival."""

    def __init__(self) -> None:
        self._batches: list[LabelledBatch] = []
        self._online: list[Array] = []
        self._costs: list[tuple[int, int, int]] = []  # forwards, backwards, records: of each round

    def add(self, batch: LabelledBatch, online: Array, forwards: int, backwards: int) -> None:
        """Add a batch, its online classes [B], and the rows that went forwards and backwards for them."""
        self._batches.append(batch)
        self._online.append(online)
        self._costs.append((forwards, backwards, len(online)))

    def per_batch(self) -> tuple[float, float]:
        """Forward and backward passes a batch, over the later half of the batches."""
        forwards, backwards, records = np.sum(self._costs[len(self._costs) // 2 :], axis=0)
        return float(forwards / records), float(backwards / records)

    def column(self, name: str) -> Array:
        """Field of all batches as one array [N]."""
        return np.concatenate([getattr(batch, name) for batch in self._batches])

    def online(self) -> Array:
        """Online classes [N]."""
        return np.concatenate(self._online)


def numbers(
    stream: Stream, tally: Tally, by_source: Sequence[Array], served: Mapping[int, Array]
) -> dict[str, Any]:
    """Accuracies in 0 .. 1 over the records of known classes; None where there is no record.

    Args:
        stream: the one that was measured.
        tally: its online predictions.
        by_source: classes [N] that the frozen model predicts for each image, by domain.
        served: classes [N] that the snapshots predicted, by lag; NOBODY where there was none yet.
    """
    labels, domains, images = (tally.column(name) for name in ("labels", "domains", "images"))
    known, online = labels != UNKNOWN, tally.online() == labels
    source = np.stack(by_source)[domains, images] == labels
    tail = known & (_place(len(labels)) >= 1 - TAIL)
    forwards, backwards = tally.per_batch()
    starts = np.cumsum([len(segment) for segment in stream.segments])[:-1]
    by_domain = {name: known & (domains == i) for i, name in enumerate(stream.spec.domains)}
    return {
        "records": len(labels),
        "source": mean(source, known),
        "online": mean(online, known),
        "online_head": mean(online[:HEAD], known[:HEAD]),
        "source_tail": mean(source, tail),
        "online_tail": mean(online, tail),
        "forwards": forwards,
        "backwards": backwards,
        "lags": {
            str(lag): _at_lag(answers == labels, online, source, known & (answers != NOBODY), starts)
            for lag, answers in served.items()
        },
        "domains": {
            name: {"source": mean(source, here), "online": mean(online, here)}
            | {f"served@{lag}": mean(a == labels, here & (a != NOBODY)) for lag, a in served.items()}
            | {f"online_same@{lag}": mean(online, here & (a != NOBODY)) for lag, a in served.items()}
            for name, here in by_domain.items()
        },
    }


def _at_lag(served: Array, online: Array, source: Array, counted: Array, starts: Array) -> dict[str, Any]:
    """Figures on the records that a snapshot has answered: the whole stream, its second half, its end."""
    place = _place(len(served))
    late, tail = counted & (place >= 0.5), counted & (place >= 1 - TAIL)
    gap = (online.astype(float) - served)[counted]
    there = np.flatnonzero(counted)
    changes = np.searchsorted(there, starts[starts >= there[0]]) if len(there) else starts[:0]
    return {
        "served": mean(served, counted),
        "online_same": mean(online, counted),
        "source_same": mean(source, counted),
        "served_second_half": mean(served, late),
        "online_second_half": mean(online, late),
        "served_tail": mean(served, tail),
        "change_cost": change_cost(gap, changes.tolist()),
    }


def mean(right: Array, counted: Array) -> float | None:
    """Share of the counted records that are right, 0 .. 1; None where none is counted."""
    return float(right[counted].mean()) if counted.any() else None


def _place(n: int) -> Array:
    """Position of each record in the stream, 0 .. 1."""
    return np.arange(n) / n
