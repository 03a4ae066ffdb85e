"""Benchmark run from the plan to the tables, with a progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tta_agent.bench import peers, quick, report, run, summary
from tta_agent.bench.plan import BenchPlan, Cell
from tta_agent.bench.predict import Predictor, at_once
from tta_agent.bench.work import Result, Work


@dataclass(frozen=True)
class Findings:
    """Results of a run, and the tables made of them."""

    plan: BenchPlan
    cells: Sequence[Cell]
    results: Mapping[str, Result]
    failed: Sequence[tuple[Cell, str]]

    @property
    def timings(self) -> dict[tuple[str, int], Result]:
        """Timings by method and batch size."""
        return summary.timings(self.cells, self.results)

    @property
    def tables(self) -> list[summary.ResultTable]:
        """Tables by protocol and batch size."""
        return summary.tables(self.cells, self.results)

    @property
    def peers(self) -> dict[str, dict[str, Any]]:
        """Peers by name, at the first batch size."""
        return summary.peers(self.cells, self.results, self.plan.batches[0])

    def sheets(self) -> list[report.Sheet]:
        """Tables as text, for people."""
        return report.sheets(self.tables, self.plan.lags, self.timings, self.peers)

    def rows(self) -> dict[str, Any]:
        """Rows of `methods` and `peers`, of the first protocol and batch size, for JSON."""
        tables = self.tables
        rows = quick.rows(tables[0], self.cells, self.plan.lags, self.timings) if tables else {}
        return {"methods": rows, "peers": self.peers}

    def everything(self) -> dict[str, Any]:
        """All results, for JSON: the rows, and the figures of every table."""
        return {
            **self.rows(),
            "tables": [
                {"protocol": t.place[0], "batch": t.place[1], "refused": t.refused,
                 "rows": {method: _plain(row) for method, row in t.rows.items()},
                 "corruptions": {m: {d: _plain(r) for d, r in by.items()} for m, by in t.domains.items()}}
                for t in self.tables
            ],
            "timings": [{"method": m, "batch": b, **found} for (m, b), found in self.timings.items()],
            "failed": [{**cell.tags(), "error": error} for cell, error in self.failed],
        }  # fmt: skip


def carry_out(plan: BenchPlan, work: Work, *, workers: int, few: bool, console: Console) -> Findings:
    """Time all contenders, then measure them; print how long it will take.

    Args:
        few: take as many images as fit into the quick run.
        console: for the progress bar.

    Raises:
        TtaError: a worker process was killed.
    """
    started_s = time.monotonic()
    timing = plan.timings()
    # one at a time, so that nobody is disturbed
    timed = _run(timing, work, min(workers, 1), Predictor({}), "timing", console)
    predict = Predictor.of(timing, timed.results)
    images = quick.fit(plan, predict, time.monotonic() - started_s, workers) if few else None
    cells = [*plan.accuracies(images), *plan.peers(images)]
    _announce(cells, work, predict, workers, console)
    found = _run(cells, work, workers, predict, "measuring", console)
    results = {**timed.results, **found.results}
    return Findings(plan, [*timing, *cells], results, [*timed.failed, *found.failed])


def _announce(
    cells: Sequence[Cell], work: Work, predict: Callable[[Cell], float], workers: int, console: Console
) -> None:
    left = [cell for cell in cells if work.get(cell.key) is None]
    seconds = sum(map(predict, left)) / at_once(workers)
    why = peers.missing()
    if why:
        console.print(why)
    console.print(
        f"{len(cells)} cells, {len(cells) - len(left)} of them finished before; about {_duration(seconds)} "
        f"with {max(workers, 1)} at a time. Finished cells are kept in {work.path}",
        soft_wrap=True,
    )


def _run(
    cells: Sequence[Cell],
    work: Work,
    workers: int,
    predict: Callable[[Cell], float],
    what: str,
    console: Console,
) -> run.CellResults:
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=1.0)
        done = total = 0

        def begun(already: int, all_: int) -> None:
            nonlocal done, total
            done, total = already, all_

        def ended(cell: Cell, seconds: float) -> None:
            nonlocal done
            done += 1
            told = f"{what} {done}/{total}: {cell.name()}"
            bar.update(task, description=told)
            if not console.is_terminal:
                console.print(f"{told}, {seconds:.1f} s", soft_wrap=True)

        observer = run.RunObserver(begun, lambda share: bar.update(task, completed=share), ended)
        return run.run(cells, work, workers=workers, predict=predict, observer=observer)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return (
        f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
    )


def _plain(row: summary.Row) -> dict[str, dict[str, float]]:
    return {name: {"mean": figure.mean, "sd": figure.sd} for name, figure in row.items()}
