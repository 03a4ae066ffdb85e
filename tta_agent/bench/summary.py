"""Summary of cells as rows: the mean over corruptions, then mean and deviation over the orders."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tta_agent.bench.plan import Cell
from tta_agent.bench.work import Result

PLAIN = ("source", "online", "online_head", "source_tail", "online_tail", "forwards", "backwards", "taught")
AT_LAG = (
    "served", "online_same", "source_same", "served_second_half", "online_second_half", "served_tail", "change_cost",
)  # fmt: skip
Place = tuple[str, int]  # protocol, batch


@dataclass(frozen=True, slots=True)
class Figure:
    """Mean and standard deviation over the orders (0 where there is one)."""

    mean: float
    sd: float


Row = dict[str, Figure]


@dataclass(frozen=True)
class ResultTable:
    """Results of one protocol and batch size.

    Attributes:
        rows: by method.
        refused: reasons by method that has nothing to adapt in the model.
        domains: rows by method and corruption.
    """

    place: Place
    rows: Mapping[str, Row]
    refused: Mapping[str, str]
    domains: Mapping[str, Mapping[str, Row]]


def tables(cells: Sequence[Cell], results: Mapping[str, Result]) -> list[ResultTable]:
    """Tables, one for each protocol and batch size, in the order of the plan."""
    places = dict.fromkeys((c.stream.protocol, c.stream.batch) for c in cells if c.kind == "accuracy")
    return [_table(place, cells, results) for place in places]


def timings(cells: Sequence[Cell], results: Mapping[str, Result]) -> dict[tuple[str, int], Result]:
    """Results of the timing cells, by method and batch size."""
    return {
        (c.contender.name, c.stream.batch): results[c.key]
        for c in cells if c.kind == "timing" and "step_s" in results.get(c.key, {})
    }  # fmt: skip


def peers(cells: Sequence[Cell], results: Mapping[str, Result], batch: int) -> dict[str, dict[str, Any]]:
    """Accuracy and passes of the peers, averaged over the corruptions, and their times beside ours.

    `online` and `ours_online` are of the same records: the first ones of each stream.
    """
    timed = {
        name: found["peer"]
        for (name, b), found in timings(cells, results).items()
        if b == batch and "peer" in found
    }
    here = [
        (c, results[c.key]) for c in cells if c.stream.batch == batch and "online" in results.get(c.key, {})
    ]
    found = {}
    for name in timed:
        theirs = [(c, r) for c, r in here if c.kind == "peer" and c.peer == name]
        ours = [r["online_head"] for c, r in here if c.kind == "accuracy" and c.contender.name == name
                and c.stream.protocol == "reset" and c.stream.order == 0]  # fmt: skip
        means = {
            metric: _mean(r[metric] for _, r in theirs) for metric in ("online", "forwards", "backwards")
        }
        images = theirs[0][1]["records"] if theirs else 0
        found[name] = {**means, "ours_online": _mean(ours), **timed[name], "images": images}
    return found


def _table(place: Place, cells: Sequence[Cell], results: Mapping[str, Result]) -> ResultTable:
    by_method: dict[str, list[tuple[Cell, Result]]] = defaultdict(list)
    refused: dict[str, str] = {}
    for cell in cells:
        result = results.get(cell.key)
        if cell.kind != "accuracy" or (cell.stream.protocol, cell.stream.batch) != place or result is None:
            continue
        if "refused" in result:
            refused[cell.contender.name] = result["refused"]
        else:
            by_method[cell.contender.name].append((cell, result))
    rows = {name: _row((c.stream.order, _flat(r)) for c, r in found) for name, found in by_method.items()}
    return ResultTable(place, rows, refused, {name: _domains(found) for name, found in by_method.items()})


def _domains(found: Sequence[tuple[Cell, Result]]) -> dict[str, Row]:
    names = dict.fromkeys(name for cell, _ in found for name in cell.stream.domains)
    return {
        name: _row((c.stream.order, r["domains"][name]) for c, r in found if name in r["domains"]) for name in names
    }  # fmt: skip


def _flat(result: Result) -> dict[str, float | None]:
    at_lag = {f"{name}@{lag}": r[name] for lag, r in result["lags"].items() for name in AT_LAG}
    return {**{name: result[name] for name in PLAIN}, **at_lag}


def _row(found: Iterable[tuple[int, Mapping[str, float | None]]]) -> Row:
    orders: dict[int, list[Mapping[str, float | None]]] = defaultdict(list)
    for order, metrics in found:
        orders[order].append(metrics)
    means = [{name: _mean(m[name] for m in cells) for name in cells[0]} for cells in orders.values()]
    row = {}
    for name in means[0] if means else ():
        values = [value for m in means if (value := m[name]) is not None]
        if values:
            row[name] = Figure(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
    return row


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None
