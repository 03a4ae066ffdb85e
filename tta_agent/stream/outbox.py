"""Messages that nobody waits for: dead letters, label requests, the inferences of the server's tap."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from tta_agent.core.errors import MessageTooLarge
from tta_agent.core.stream_protocols import Producer
from tta_agent.core.types import Done, Headers, Message

CAPACITY_BYTES = 32 << 20  # of messages that wait
CAPACITY_RECORDS = 100_000
OVERHEAD_BYTES = 1024  # of one of them, beside what it holds
SLOW_S = 1.0  # a send that fails after so long has waited in vain for its topic
AWAY_S = 5.0  # messages for such a topic are dropped at once for so long
TELL_AGAIN_S = 600.0  # a warning about the same is repeated so often
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Item:
    topic: str
    make: Callable[[], Message]
    nbytes: int
    on_done: Done | None


class Outbox:
    """Sends through a queue that is bounded in bytes, from a thread of its own; implements `Producer`.

    `send` never waits and never raises. A message that cannot be had is dropped, counted, and told once.

    Args:
        producer: of the log; its owner closes it.
        kinds: name of the messages of each topic, for counts and warnings.
        dropped: called with the kind of a message (or `too_large`) and how many were dropped.
        capacity_bytes, capacity_records: bounds of the queue; beyond them the newest message is dropped.
        close_timeout_s: longest wait of `flush` and `close`.
        threaded: False sends at once, in the caller's thread (replay).

    Attributes:
        counts: messages that are `sent` (acknowledged by the log), `dropped` (the queue was full), `too_large` for
            their topic, or lost by `errors` of the log.
    """

    def __init__(
        self,
        producer: Producer,
        kinds: Mapping[str, str] | None = None,
        dropped: Callable[[str, int], None] = lambda kind, count: None,
        *,
        capacity_bytes: int = CAPACITY_BYTES,
        capacity_records: int = CAPACITY_RECORDS,
        close_timeout_s: float = 5.0,
        threaded: bool = True,
    ) -> None:
        self._producer, self._kinds, self._dropped = producer, dict(kinds or {}), dropped
        self._capacity_bytes, self._capacity_records = capacity_bytes, capacity_records
        self._close_timeout_s = close_timeout_s
        self._queue: deque[_Item] = deque()
        self._unsettled = 0  # messages of which it is not known yet whether the log has them
        self._away: dict[str, float] = {}  # topics that cannot be written, and until when they are not tried
        self._told: dict[tuple[str, str], float] = {}
        self._changed = threading.Condition()  # guards everything here
        self._closed = False
        self.queued_bytes = 0
        self.counts = Counter(sent=0, dropped=0, errors=0, too_large=0)
        self._thread = (
            threading.Thread(target=self._run, name="tta-outbox", daemon=True) if threaded else None
        )
        if self._thread:
            self._thread.start()

    @property
    def queued(self) -> int:
        """Messages that wait."""
        return len(self._queue)

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        on_done: Done | None = None,
    ) -> None:
        """See `Producer`; returns at once, whatever the log does."""
        nbytes = len(key or b"") + len(value or b"") + sum(len(text) for _, text in headers)
        self.offer(topic, lambda: (key, value, headers), nbytes, on_done)

    def offer(
        self, topic: str, make: Callable[[], Message], nbytes: int, on_done: Done | None = None
    ) -> bool:
        """Queue one message; False where it was dropped.

        Args:
            make: encodes it, in the thread of the outbox.
            nbytes: what it holds in memory until then.
        """
        item = _Item(topic, make, nbytes + OVERHEAD_BYTES, on_done)
        with self._changed:
            fits = not self._closed and self._fits(item)
            self._unsettled += fits
            if fits and self._thread:
                self._queue.append(item)
                self.queued_bytes += item.nbytes
                self._changed.notify_all()
        if not fits:
            self._lose(topic, "dropped", "the queue is full" if not self._closed else "it is closed")
        elif not self._thread:
            self._send(item)
        return fits

    def _fits(self, item: _Item) -> bool:
        within = self.queued_bytes + item.nbytes <= self._capacity_bytes
        return within and len(self._queue) < self._capacity_records

    def flush(self) -> None:
        """Wait until all messages are durable or lost, for `close_timeout_s` at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._unsettled, self._close_timeout_s)

    def close(self) -> None:
        """Send and flush what waits, for `close_timeout_s` at most; nothing is taken any more. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join(self._close_timeout_s)

    @property
    def ended(self) -> bool:
        """Whether it is closed, and nothing is on its way any more."""
        return self._closed and not (self._thread and self._thread.is_alive())

    def _run(self) -> None:
        while (item := self._next()) is not None:
            self._send(item)
        try:
            self._producer.flush()
        except Exception as error:
            log.warning("the last messages may be lost: %s", error)

    def _next(self) -> _Item | None:
        """The oldest that waits, or None once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            if not self._queue:
                return None
            item = self._queue.popleft()
            self.queued_bytes -= item.nbytes
            return item

    def _send(self, item: _Item) -> None:
        if self._away.get(item.topic, 0.0) > time.monotonic():
            return self._done(item, None, RuntimeError("the topic could not be written a moment ago"))
        began_s = time.monotonic()
        try:
            self._producer.send(item.topic, *item.make(), on_done=partial(self._done, item, began_s))
        except Exception as error:  # whatever the log does, nobody else is harmed
            slow = time.monotonic() - began_s > SLOW_S
            self._done(item, began_s if slow else None, error)

    def _done(self, item: _Item, began_s: float | None, error: Exception | None) -> None:
        """Called for each message, by any thread; `began_s` where a failure says that the topic is away."""
        if isinstance(error, MessageTooLarge):
            self._lose(item.topic, "too_large", str(error))
        elif error is not None:
            if began_s is not None:
                self._away[item.topic] = time.monotonic() + AWAY_S
            self._lose(item.topic, "errors", str(error))
        with self._changed:
            self._unsettled -= 1
            self.counts["sent"] += error is None
            self._changed.notify_all()
        if item.on_done is not None:
            item.on_done(error)

    def _lose(self, topic: str, how: str, why: str) -> None:
        kind = self._kinds.get(topic, topic)
        with self._changed:
            self.counts[how] += 1
            quiet = time.monotonic() < self._told.get((topic, how), 0.0)
            if not quiet:
                self._told[topic, how] = time.monotonic() + TELL_AGAIN_S
        self._dropped("too_large" if how == "too_large" else kind, 1)
        if not quiet:
            log.warning(
                "a message (%s) for topic %s is dropped, and those like it are counted: %s", kind, topic, why
            )
