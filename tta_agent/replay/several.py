"""Several policies over one recording: one after the other, or each in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tta_agent.core import process
from tta_agent.core.errors import ConfigError, TtaError
from tta_agent.replay.engine import replay
from tta_agent.replay.tape import Late
from tta_agent.settings.schema import Settings

POLL_S = 0.2
EVERY = 320  # records between two ticks of a process
Tick = Callable[[str, int, int], None]  # policy, records done, records in all


def play(
    folder: Path,
    policies: Mapping[str, Settings],
    late: Late,
    *,
    workers: int = 0,
    tick: Tick = lambda policy, done, total: None,
) -> tuple[dict[str, dict[str, Any]], bool]:
    """Play each policy to its end.

    Args:
        policies: settings by name; they must speak of the same model.
        workers: processes of one thread each; 0 or 1 for this one.

    Returns:
        What `replay` returns, by name, in the order given; and whether that is all of them. An interrupt (Ctrl-C)
        ends those that are running; their stores are gone in any case.

    Raises:
        ConfigError: a recording or a setting that does not fit.
        TtaError: a process was killed.
    """
    _refuse_other_models(policies)
    found: dict[str, dict[str, Any]] = {}
    complete = True
    with tempfile.TemporaryDirectory(prefix="tta-replay-") as scratch:
        try:
            if workers > 1 and len(policies) > 1:
                _Pool(folder, late, Path(scratch), tick).run(policies, workers, found)
            else:
                for name, settings in policies.items():
                    found[name] = _one(folder, settings, late, Path(scratch), _ticker(tick, name))
        except KeyboardInterrupt:
            complete = False
    return {name: found[name] for name in policies if name in found}, complete


def _refuse_other_models(policies: Mapping[str, Settings]) -> None:
    (first, one), *others = policies.items()
    for name, other in others:
        if one.model != other.model:
            raise ConfigError(
                f"policies {first} and {name} speak of different models: a source and an oracle are of one.\n"
                "Leave `model` out of the files, and set TTA_MODEL__* instead."
            )


def _one(
    folder: Path, settings: Settings, late: Late, scratch: Path, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    return replay(folder, settings, **asdict(late), progress=progress, scratch=scratch)


def _ticker(tick: Tick, name: str) -> Callable[[int, int], None]:
    return lambda done, total: tick(name, done, total)


class _Pool:
    """One call of `play`, in processes."""

    def __init__(self, folder: Path, late: Late, scratch: Path, tick: Tick) -> None:
        self._folder, self._late, self._scratch, self._tick = folder, late, scratch, tick

    def run(self, policies: Mapping[str, Settings], workers: int, found: dict[str, dict[str, Any]]) -> None:
        """Fill `found` as policies end."""
        context = multiprocessing.get_context("spawn")  # fork and torch's threads do not go together
        self._ticks = context.SimpleQueue()
        with _ended_at_once(ProcessPoolExecutor(workers, context, _start, (self._ticks,))) as pool:
            jobs = {
                pool.submit(_work, name, self._folder, settings, self._late, self._scratch): name
                for name, settings in policies.items()
            }
            while jobs:
                self._collect(jobs, found)

    def _collect(self, jobs: dict[Future[dict[str, Any]], str], found: dict[str, dict[str, Any]]) -> None:
        ended, _ = wait(jobs, POLL_S, FIRST_COMPLETED)
        while not self._ticks.empty():
            self._tick(*self._ticks.get())
        for job in ended:
            found[jobs.pop(job)] = job.result()


@contextlib.contextmanager
def _ended_at_once(pool: ProcessPoolExecutor) -> Iterator[ProcessPoolExecutor]:
    """Whatever goes wrong, no process stays behind."""
    before = set(multiprocessing.active_children())
    try:
        yield pool
    except BaseException as error:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise TtaError("a process was killed (out of memory?): fewer --workers need less") from None
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_ticks: Any = None


def _start(ticks: Any) -> None:
    global _ticks
    _ticks = ticks
    process.budget(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    process.follow_parent()


def _work(name: str, folder: Path, settings: Settings, late: Late, scratch: Path) -> dict[str, Any]:
    one = settings.model_copy(update={"model": settings.model.model_copy(update={"threads": 1})})
    return _one(folder, one, late, scratch, lambda done, total: _tell(name, done, total))


def _tell(name: str, done: int, total: int) -> None:
    if done % EVERY == 0 or done == total:
        _ticks.put((name, done, total))
