"""Dynamic batching: requests of the same version and shape run together, and each gets its own rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tta_agent.serving.server.admission import Turns
from tta_agent.serving.server.engine import Answer, Execution, Task

Key: TypeAlias = tuple[int, tuple[int, ...]]  # of the session, shape of one sample
Run: TypeAlias = Callable[[Sequence[Task]], Coroutine[Any, Any, Sequence[Execution]]]


@dataclass(frozen=True, slots=True)
class Batching:
    """How requests are joined.

    Attributes:
        size: most samples of a batch; a request of more runs alone. 1: none are joined.
        delay_s: longest wait of a request for others while a worker is free.
    """

    size: int = 1
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Member:
    """A request in a batch; whoever waits for its future may give up until it has begun."""

    task: Task
    begin: Callable[[], None]
    answer: asyncio.Future[Answer]


@dataclass(slots=True)
class _Batch:
    """Requests that will run together, until a worker takes them."""

    due: asyncio.Event = field(default_factory=asyncio.Event)
    members: list[_Member] = field(default_factory=list)
    samples: int = 0

    def add(self, member: _Member) -> None:
        self.members.append(member)
        self.samples += len(member.task.x)

    def begin(self) -> list[_Member]:
        """Those that still wait: from now on they are carried through."""
        waiting = [member for member in self.members if not member.answer.done()]
        for member in waiting:
            member.begin()
        return waiting


class DynamicBatcher:
    """Joins requests. Not thread-safe: the event loop owns it; nothing is locked while a session runs.

    A batch is due when it is full or its first request has waited for the delay; it takes in further ones until a
    worker is free for it.

    Args:
        run: runs tasks in a worker; called with a turn.
        turns: of the workers.
    """

    def __init__(self, run: Run, turns: Turns, batching: Batching) -> None:
        self._run, self._turns, self._batching = run, turns, batching
        self._open: dict[Key, _Batch] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def answer(self, task: Task, begin: Callable[[], None]) -> Answer:
        """Answer of one task.

        Args:
            begin: called when it is taken by a worker; until then the caller may give up.

        Raises:
            GraphError: inference failed, on this task alone.
        """
        member = _Member(task, begin, asyncio.get_running_loop().create_future())
        key = (id(task.session), task.x.shape[1:])
        batch = self._open.get(key)
        if batch is None or batch.samples + len(task.x) > self._batching.size:
            batch = self._new_batch(key)
        batch.add(member)
        if batch.samples >= self._batching.size or not task.joins:
            self._close(key, batch)
            batch.due.set()
        return await member.answer

    def _new_batch(self, key: Key) -> _Batch:
        if (full := self._open.get(key)) is not None:
            full.due.set()
        batch = self._open[key] = _Batch()
        if self._batching.delay_s:
            asyncio.get_running_loop().call_later(self._batching.delay_s, batch.due.set)
        running = asyncio.create_task(self._carry_out(key, batch))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return batch

    def _close(self, key: Key, batch: _Batch) -> None:
        if self._open.get(key) is batch:
            del self._open[key]

    async def _carry_out(self, key: Key, batch: _Batch) -> None:
        if self._batching.delay_s:
            await batch.due.wait()
        async with self._turns.turn(batch.members[0].task.x.nbytes):
            self._close(key, batch)
            members = batch.begin()
            answers = await self._answers([member.task for member in members]) if members else ()
        for member, answer in zip(members, answers, strict=True):
            _deliver(member.answer, answer)

    async def _answers(self, tasks: Sequence[Task]) -> Sequence[Answer | Exception]:
        """One for each task, whatever happens: nobody may wait for ever."""
        try:
            answers = [answer for execution in await self._run(tasks) for answer in execution.answers]
            assert len(answers) == len(tasks), f"{len(tasks)} requests have {len(answers)} answers"
            return answers
        except Exception as error:
            return [error] * len(tasks)


def _deliver(future: asyncio.Future[Answer], answer: Answer | Exception) -> None:
    if future.done():  # its caller has gone
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
