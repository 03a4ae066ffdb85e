"""Pool of worker processes for jobs of seconds or minutes; none outlives its parent or its pool."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar

from tta_agent.core import process
from tta_agent.core.errors import TtaError

POLL_S = 0.2  # longest time until a progress report is delivered
Key = TypeVar("Key")
Result = TypeVar("Result")
_reports: Any = None  # of a worker process: the queue to its parent


class WorkerPool:
    """Pool of worker processes, a context manager: an error or an interrupt inside kills them at once.

    Ctrl-C reaches the parent alone. When the parent is gone, even by SIGKILL, its workers end.

    Args:
        workers: processes at most; one is started when a job needs it.
        advice: second line of the error when one was killed, such as "fewer --workers need less".
        on_progress: called in the parent's thread with the arguments of each `report_progress`, before the job
            that reported is yielded.
    """

    def __init__(
        self, workers: int, *, advice: str, on_progress: Callable[..., None] = lambda *values: None
    ) -> None:
        self._workers, self._advice, self._on_progress = workers, advice, on_progress
        context = multiprocessing.get_context("spawn")  # a fork would copy torch's locks without its threads
        self._reports = context.SimpleQueue()
        self._executor = ProcessPoolExecutor(workers, context, _begin, (self._reports,))
        self._others = set(multiprocessing.active_children())

    def __enter__(self) -> WorkerPool:
        """Enter; processes start with the first jobs."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes: after their last job, or at once where `error` is on its way."""
        if error is not None:
            for child in set(multiprocessing.active_children()) - self._others:
                child.kill()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._reports.close()

    def run(
        self, work: Callable[..., Result], jobs: Iterable[tuple[Key, tuple[Any, ...]]]
    ) -> Iterator[tuple[Key, Future[Result]]]:
        """Call `work` with the arguments of each job; yield the job's key and its finished future.

        Args:
            work: function of a module, called in a worker; what it raises is in the future.
            jobs: keys and arguments in the order of work. A job is taken when a process is free for it, so an
                iterator may end early, at a deadline for example.

        Raises:
            TtaError: a worker process was killed.
        """
        waiting, running = iter(jobs), dict[Future[Result], Key]()
        try:
            while True:
                for key, arguments in islice(waiting, self._workers - len(running)):
                    running[self._submit(work, arguments)] = key
                if not running:
                    return
                for job in self._finished(running):
                    yield running.pop(job), job
        except BrokenProcessPool:
            told = f"one of {self._workers} worker processes was killed (out of memory?)"
            raise TtaError(f"{told}\n{self._advice}") from None

    def _submit(self, work: Callable[..., Result], arguments: tuple[Any, ...]) -> Future[Result]:
        with _no_interrupt():
            return self._executor.submit(work, *arguments)

    def _finished(self, running: Iterable[Future[Result]]) -> Iterable[Future[Result]]:
        finished, _ = wait(running, POLL_S, FIRST_COMPLETED)
        while not self._reports.empty():
            self._on_progress(*self._reports.get())
        sound = [job for job in finished if not isinstance(job.exception(), BrokenProcessPool)]
        if finished and not sound:
            raise BrokenProcessPool
        return sound  # before the error, so that no result is lost


def report_progress(*values: Any) -> None:
    """Send values from a job to the pool's `on_progress`; small ones, because the parent may be busy."""
    _reports.put(values)


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Hold SIGINT back: a process that starts meanwhile never gets it, this one gets it afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(reports: Any) -> None:
    global _reports
    _reports = reports
    process.follow_parent()
    process.budget(1)
