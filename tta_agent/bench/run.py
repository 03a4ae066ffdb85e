"""Cells to results: worker processes of one thread each, biggest cell first, nothing done twice."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tta_agent.assembly import build
from tta_agent.bench import peers, protocol, timing
from tta_agent.bench.plan import Cell
from tta_agent.bench.streams import Stream
from tta_agent.bench.work import Result, Work
from tta_agent.core.errors import CannotAdapt
from tta_agent.core.worker_pool import WorkerPool, report_progress
from tta_agent.models.loader import DeployedModel
from tta_agent.settings.schema import Settings

ADVICE = "fewer --workers need less; the same command goes on from the last finished cell"


def measured(cell: Cell, cache: Path, tick: protocol.Tick) -> dict[str, Any]:
    """The numbers of one cell, or {"refused": why} where the method has nothing to adapt in the model."""
    settings = cell.settings(store=cache)
    source = dataclasses.replace(_source(settings), mean=cell.stream.mean, std=cell.stream.std)
    stream = Stream(cell.stream, cache)
    try:
        if cell.kind == "timing":
            return timing.measure(settings, source, stream, cell.peer, cell.limit_s)
        if cell.kind == "peer":
            return peers.measure(str(cell.peer), source, stream, tick)
        return protocol.measure(settings, source, stream, cell.lags, cache, tick)
    except CannotAdapt as error:
        return {"refused": str(error)}


_loaded: dict[str, DeployedModel] = {}


def _source(settings: Settings) -> DeployedModel:
    name = json.dumps(settings.model.model_dump(mode="json"))
    if name not in _loaded:
        _loaded[name] = build.load_source(settings)
    return _loaded[name]


@dataclass
class Watcher:
    """Is told how it goes: `done` cells out of `total`; `share` of the work, 0 .. 1."""

    begun: Callable[[int, int], None] = lambda done, total: None
    moved: Callable[[float], None] = lambda share: None
    ended: Callable[[Cell, float], None] = lambda cell, seconds: None


@dataclass
class Outcome:
    """Results by key, and what failed."""

    results: dict[str, Result] = field(default_factory=dict)
    failed: list[tuple[Cell, str]] = field(default_factory=list)


def run(
    cells: Sequence[Cell], work: Work, *, workers: int, predict: Callable[[Cell], float], watcher: Watcher
) -> Outcome:
    """Measure what the work folder does not hold yet.

    Args:
        workers: processes; 0 measures in this one, where an error is raised and not noted.
        predict: seconds that a cell will take, for the order and the time left.

    Raises:
        TtaError: a worker was killed. What is finished is kept.
    """
    known = {cell.key: found for cell in cells if (found := work.get(cell.key)) is not None}
    outcome = Outcome(known)
    waiting = {cell.key: cell for cell in cells if cell.key not in known}
    watcher.begun(len(known), len(known) + len(waiting))
    if waiting and workers:
        _measure_apart(waiting, work, min(workers, len(waiting)), predict, watcher, outcome)
        return outcome
    for cell in waiting.values():
        result, seconds = _timed(cell, work.cache, lambda records: None)
        _finish(cell, result, seconds, work, watcher, outcome)
    return outcome


def _finish(
    cell: Cell, result: Result, seconds: float, work: Work, watcher: Watcher, outcome: Outcome
) -> None:
    work.add(cell.key, cell.tags(), result, seconds)
    outcome.results[cell.key] = result
    watcher.ended(cell, seconds)


def _measure_apart(
    cells: Mapping[str, Cell],
    work: Work,
    workers: int,
    predict: Callable[[Cell], float],
    watcher: Watcher,
    outcome: Outcome,
) -> None:
    share = _Share({key: max(predict(cell), 1e-6) for key, cell in cells.items()}, watcher.moved)
    biggest_first = sorted(cells, key=lambda key: -share.seconds[key])
    jobs = ((key, (cells[key], work.cache)) for key in biggest_first)
    with WorkerPool(workers, advice=ADVICE, on_progress=share.add) as pool:
        for key, job in pool.run(_work, jobs):
            share.finish(key)
            if error := job.exception():
                outcome.failed.append((cells[key], f"{type(error).__name__}: {error}"))
            else:
                _finish(cells[key], *job.result(), work, watcher, outcome)


class _Share:
    """Share of the predicted seconds that is over, told to `moved` at each change."""

    def __init__(self, seconds: Mapping[str, float], moved: Callable[[float], None]) -> None:
        self.seconds, self._moved = seconds, moved
        self._over_s = dict.fromkeys(seconds, 0.0)

    def add(self, key: str, part: float) -> None:
        """A part of a cell's records, 0 .. 1, is done; before its end it never counts as quite done."""
        whole_s = self.seconds[key]
        self._tell(key, min(self._over_s[key] + part * whole_s, 0.99 * whole_s))

    def finish(self, key: str) -> None:
        """A cell is done."""
        self._tell(key, self.seconds[key])

    def _tell(self, key: str, over_s: float) -> None:
        self._over_s[key] = over_s
        self._moved(sum(self._over_s.values()) / sum(self.seconds.values()))


def _work(cell: Cell, cache: Path) -> tuple[dict[str, Any], float]:
    return _timed(cell, cache, functools.partial(_tell, cell))


def _timed(cell: Cell, cache: Path, tick: protocol.Tick) -> tuple[dict[str, Any], float]:
    started_s = time.perf_counter()
    return measured(cell, cache, tick), time.perf_counter() - started_s


def _tell(cell: Cell, records: int) -> None:
    report_progress(cell.key, records / (cell.stream.images * len(cell.stream.domains)))
