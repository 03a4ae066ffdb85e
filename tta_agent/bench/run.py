"""Measurements of a benchmark: worker processes of one thread each, biggest cell first, nothing done twice."""

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
    """Results of one cell; {"refused": reason} where the method has nothing to adapt in the model."""
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
class RunObserver:
    """Callbacks of a run.

    Attributes:
        begun: cells done before, and cells in all.
        moved: share of the predicted seconds that is over, 0 .. 1.
        ended: a finished cell and its seconds.
    """

    begun: Callable[[int, int], None] = lambda done, total: None
    moved: Callable[[float], None] = lambda share: None
    ended: Callable[[Cell, float], None] = lambda cell, seconds: None


@dataclass
class CellResults:
    """Results by key of a cell, and the cells that failed, each with its error."""

    results: dict[str, Result] = field(default_factory=dict)
    failed: list[tuple[Cell, str]] = field(default_factory=list)


def run(
    cells: Sequence[Cell],
    work: Work,
    *,
    workers: int,
    predict: Callable[[Cell], float],
    observer: RunObserver,
) -> CellResults:
    """Measure the cells that the work folder does not hold yet.

    Args:
        workers: processes; 0 measures in this one, where an error is raised and not noted.
        predict: seconds that a cell will take, for the order and the time left.

    Raises:
        TtaError: a worker process was killed. Finished cells are kept.
    """
    known = {cell.key: found for cell in cells if (found := work.get(cell.key)) is not None}
    waiting = {cell.key: cell for cell in cells if cell.key not in known}
    observer.begun(len(known), len(known) + len(waiting))
    one = _Run(work, observer, CellResults(known))
    if waiting and workers:
        one.apart(waiting, min(workers, len(waiting)), _Share(waiting, predict, observer.moved))
    else:
        one.here(waiting)
    return one.found


@dataclass
class _Run:
    work: Work
    observer: RunObserver
    found: CellResults

    def here(self, cells: Mapping[str, Cell]) -> None:
        for cell in cells.values():
            self._keep(cell, *_timed(cell, self.work.cache, lambda records: None))

    def apart(self, cells: Mapping[str, Cell], workers: int, share: _Share) -> None:
        jobs = ((key, (cells[key], self.work.cache)) for key in share.biggest_first())
        with WorkerPool(workers, advice=ADVICE, on_progress=share.add) as pool:
            for key, job in pool.run(_work, jobs):
                share.finish(key)
                if error := job.exception():
                    self.found.failed.append((cells[key], f"{type(error).__name__}: {error}"))
                else:
                    self._keep(cells[key], *job.result())

    def _keep(self, cell: Cell, result: Result, seconds: float) -> None:
        self.work.add(cell.key, cell.tags(), result, seconds)
        self.found.results[cell.key] = result
        self.observer.ended(cell, seconds)


class _Share:
    """Share of the predicted seconds that is over, given to `moved` at each change."""

    def __init__(
        self, cells: Mapping[str, Cell], predict: Callable[[Cell], float], moved: Callable[[float], None]
    ) -> None:
        self._seconds, self._moved = {key: max(predict(cell), 1e-6) for key, cell in cells.items()}, moved
        self._over_s = dict.fromkeys(cells, 0.0)

    def biggest_first(self) -> list[str]:
        return sorted(self._seconds, key=lambda key: -self._seconds[key])

    def add(self, key: str, part: float) -> None:
        """Count a part of a cell's records, 0 .. 1; before its end the cell never counts as quite done."""
        whole_s = self._seconds[key]
        self._set(key, min(self._over_s[key] + part * whole_s, 0.99 * whole_s))

    def finish(self, key: str) -> None:
        self._set(key, self._seconds[key])

    def _set(self, key: str, over_s: float) -> None:
        self._over_s[key] = over_s
        self._moved(sum(self._over_s.values()) / sum(self._seconds.values()))


def _work(cell: Cell, cache: Path) -> tuple[dict[str, Any], float]:
    return _timed(cell, cache, functools.partial(_report, cell))


def _timed(cell: Cell, cache: Path, tick: protocol.Tick) -> tuple[dict[str, Any], float]:
    started_s = time.perf_counter()
    return measured(cell, cache, tick), time.perf_counter() - started_s


def _report(cell: Cell, records: int) -> None:
    report_progress(cell.key, records / (cell.stream.images * len(cell.stream.domains)))
