"""Admission of requests: memory for those in flight, and turns of the workers.

Whatever one client sends, a small request finds room and its turn: where memory runs out the largest request that has
not begun is given up, and a request may be overtaken for a time that grows with its size.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.exceptions import HTTPException
from starlette.requests import Request

from tta_agent.web import bodies

PAUSE_S, BODY_S, QUEUE_S = (
    10.0,
    60.0,
    60.0,
)  # longest: between two pieces of a body, for all of it, for a turn
BINARY, JSON = 2, 10  # bytes of memory for one of a body, until it has been answered
OVERTAKEN_BYTES_PER_S = 128 << 10  # a request of 3 MiB waits up to 24 s for smaller ones that come later
RETRY = {"retry-after": "1"}


class Share:
    """Memory of one request.

    Args:
        budget: of all requests.
        deadline: ends the request while it has not begun.
    """

    def __init__(self, budget: Budget, deadline: asyncio.Timeout) -> None:
        self._budget, self._deadline = budget, deadline
        self.held, self.begun, self.evicted = 0, False, False
        self._late = f"the body did not come within {PAUSE_S:g} s of a pause, {BODY_S:g} s in all"

    async def read(self, request: Request, limit_bytes: int, head_bytes: int | None) -> bytes:
        """Body of the request, decompressed.

        Args:
            head_bytes: of JSON before binary tensors; None: all of it is JSON.

        Raises:
            TooLarge: it is larger than `limit_bytes`.
            HTTPException: 413 or 503, there is no memory for it.
        """
        end_s, read = asyncio.get_running_loop().time() + BODY_S, 0

        def on_bytes(count: int) -> None:
            nonlocal read
            head = count if head_bytes is None else min(max(head_bytes - read, 0), count)
            read += count
            self._take(head * JSON + (count - head) * BINARY)
            self._wait(PAUSE_S, end_s)

        self._wait(PAUSE_S, end_s)
        body = await bodies.read_inflated(request, limit_bytes, on_bytes)
        self._late = ""
        self._wait(QUEUE_S)
        return body

    def begin(self) -> None:
        """From now on the request is carried through."""
        self.begun = True
        self._deadline.reschedule(None)

    def evict(self) -> None:
        """Give the request up."""
        self.held, self.evicted = 0, True
        self._deadline.reschedule(asyncio.get_running_loop().time())

    def _take(self, count: int) -> None:
        if self.held + count > self._budget.total:
            raise HTTPException(
                413,
                f"the body takes more than {self._budget.total} bytes of memory (TTA_SERVE__BODY_BYTES), JSON ten for"
                " one: send fewer samples, or tensors as raw bytes",
            )
        if self.evicted or not self._budget.make_room(self, count):
            self.evicted = True
            raise self.refusal()
        self.held += count

    def _wait(self, seconds: float, end_s: float = float("inf")) -> None:
        if not self.evicted:
            self._deadline.reschedule(min(asyncio.get_running_loop().time() + seconds, end_s))

    def refusal(self) -> HTTPException:
        """Why the request was given up."""
        if self.evicted:
            told = f"requests in flight take all {self._budget.total} bytes of memory (TTA_SERVE__BODY_BYTES)"
            return HTTPException(503, f"{told}; try again", RETRY)
        if self._late:
            return HTTPException(408, self._late, {"connection": "close"})
        return HTTPException(503, f"no worker was free within {QUEUE_S:g} s; try again", RETRY)


class Budget:
    """Memory for the bodies of all requests in flight. Not thread-safe: the event loop owns it."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._shares: set[Share] = set()

    @property
    def used(self) -> int:
        """Bytes that requests hold."""
        return sum(share.held for share in self._shares)

    @asynccontextmanager
    async def share(self) -> AsyncIterator[Share]:
        """Share of one request, given back at the end.

        Raises:
            HTTPException: the request was given up before it had begun: 408, or 503 with Retry-After.
        """
        deadline = asyncio.timeout(BODY_S)
        share = Share(self, deadline)
        self._shares.add(share)
        try:
            async with deadline:
                yield share
        except TimeoutError:
            if share.begun:
                raise
            raise share.refusal() from None
        finally:
            self._shares.discard(share)

    def make_room(self, share: Share, count: int) -> bool:
        """Whether a request may hold so much more: larger ones that have not begun are given up for it."""
        while self.used + count > self.total:
            larger = [one for one in self._shares if not one.begun and one.held > share.held + count]
            if not larger:
                return False
            max(larger, key=lambda one: one.held).evict()
        return True


class Turns:
    """Turns of the workers: the request that came first, but a larger one lets smaller ones pass for a while."""

    def __init__(self, workers: int) -> None:
        self._free = workers
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = itertools.count()

    @property
    def waiting(self) -> int:
        """Those without a worker."""
        return sum(not mine.done() for *_, mine in self._waiting)

    @asynccontextmanager
    async def turn(self, size_bytes: int) -> AsyncIterator[None]:
        """One worker, for as long as the context is open."""
        await self._wait(size_bytes)
        try:
            yield
        finally:
            self._release()

    async def _wait(self, size_bytes: int) -> None:
        if self._free:
            self._free -= 1
            return
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[None] = loop.create_future()
        key = loop.time() + size_bytes / OVERTAKEN_BYTES_PER_S
        heapq.heappush(self._waiting, (key, next(self._count), mine))
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # the turn came at the same moment
                self._release()
            raise

    def _release(self) -> None:
        while self._waiting:
            *_, following = heapq.heappop(self._waiting)
            if not following.done():
                following.set_result(None)
                return
        self._free += 1
