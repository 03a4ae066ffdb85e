"""Cells to results: worker processes of one thread each, biggest cell first, nothing done twice."""

from __future__ import annotations

import dataclasses
import functools
import json
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tta_agent.assembly import build
from tta_agent.bench import peers, protocol, timing
from tta_agent.bench.plan import Cell
from tta_agent.bench.streams import Stream
from tta_agent.bench.work import Result, Work
from tta_agent.core import process
from tta_agent.core.errors import CannotAdapt, TtaError
from tta_agent.models.loader import DeployedModel
from tta_agent.settings.schema import Settings

POLL_S = 0.2


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
        _Pool(waiting, work, predict, watcher, outcome).run(min(workers, len(waiting)))
        return outcome
    for cell in waiting.values():
        result, seconds = _timed(cell, work.cache, lambda records: None)
        work.add(cell.key, cell.tags(), result, seconds)
        outcome.results[cell.key] = result
        watcher.ended(cell, seconds)
    return outcome


class _Pool:
    """One call of `run`, in worker processes."""

    def __init__(
        self,
        cells: Mapping[str, Cell],
        work: Work,
        predict: Callable[[Cell], float],
        watcher: Watcher,
        outcome: Outcome,
    ) -> None:
        self._cells, self._work, self._watcher, self._outcome = cells, work, watcher, outcome
        self._seconds = {key: max(predict(cell), 1e-6) for key, cell in cells.items()}
        self._moved = dict.fromkeys(cells, 0.0)  # predicted seconds of each that are over

    def run(self, workers: int) -> None:
        context = multiprocessing.get_context("spawn")  # fork and torch's threads do not go together
        ticks = context.SimpleQueue()
        pool = ProcessPoolExecutor(workers, context, _start_worker, (ticks,))
        try:
            biggest_first = sorted(self._cells, key=lambda key: -self._seconds[key])
            jobs = {pool.submit(_work, self._cells[key], self._work.cache): key for key in biggest_first}
            while jobs:
                ended, _ = wait(jobs, POLL_S, FIRST_COMPLETED)
                while not ticks.empty():
                    self._tick(*ticks.get())
                for job in ended:
                    self._end(self._cells[jobs.pop(job)], job)
                self._watcher.moved(sum(self._moved.values()) / sum(self._seconds.values()))
        except BrokenProcessPool:
            raise TtaError(
                "a worker process was killed (out of memory?): fewer --workers need less; "
                "the same command goes on from the last finished cell"
            ) from None
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _tick(self, key: str, records: int) -> None:
        """Some records of a cell are done; before its end it never counts as quite done."""
        share = records / _records(self._cells[key])
        self._moved[key] = min(self._moved[key] + share * self._seconds[key], 0.99 * self._seconds[key])

    def _end(self, cell: Cell, job: Future[tuple[dict[str, Any], float]]) -> None:
        self._moved[cell.key] = self._seconds[cell.key]
        error = job.exception()
        if isinstance(error, BrokenProcessPool):
            raise error
        if error is not None:
            self._outcome.failed.append((cell, f"{type(error).__name__}: {error}"))
            return
        result, seconds = job.result()
        self._work.add(cell.key, cell.tags(), result, seconds)
        self._outcome.results[cell.key] = result
        self._watcher.ended(cell, seconds)


def _records(cell: Cell) -> int:
    return cell.stream.images * len(cell.stream.domains)


_ticks: Any = None


def _start_worker(ticks: Any) -> None:
    global _ticks
    _ticks = ticks
    process.follow_parent()


def _work(cell: Cell, cache: Path) -> tuple[dict[str, Any], float]:
    return _timed(cell, cache, functools.partial(_tell, cell.key))


def _timed(cell: Cell, cache: Path, tick: protocol.Tick) -> tuple[dict[str, Any], float]:
    started_s = time.perf_counter()
    return measured(cell, cache, tick), time.perf_counter() - started_s


def _tell(key: str, records: int) -> None:
    _ticks.put((key, records))
