"""The server's log of inferences. It never delays or fails a request: where it cannot keep up it drops and counts."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass

from tta_agent.core.protocols import Producer, WritingCodec
from tta_agent.core.types import Array

_log = logging.getLogger(__name__)
CAPACITY_BYTES = 32 << 20  # of queued inferences; beyond it records are dropped and counted, never requests
_OVERHEAD_BYTES = 1024  # of one queued inference, beside its arrays


@dataclass(frozen=True, slots=True)
class _Inference:
    id: str
    x: Array
    logits: Array
    version: int
    time_s: float
    traceparent: str | None
    entity: str | None

    @property
    def nbytes(self) -> int:
        return self.x.nbytes + self.logits.nbytes + _OVERHEAD_BYTES


class Tap:
    """Log of inferences, written from a thread of its own through a queue that is bounded in bytes.

    Args:
        producer: of the log; its owner closes it.
        codec: wire format of the inferences.
        topic: topic of inferences.
        model: name of the model in the server.
        capacity_bytes: bound of the queue; beyond it the newest inference is dropped.
        close_timeout_s: longest wait of `close` for the queue to empty.
    """

    def __init__(
        self,
        producer: Producer,
        codec: WritingCodec,
        topic: str,
        model: str,
        *,
        capacity_bytes: int = CAPACITY_BYTES,
        close_timeout_s: float = 5.0,
    ) -> None:
        """Start the thread."""
        self._producer, self._codec, self._topic, self._model = producer, codec, topic, model
        self._capacity_bytes, self._close_timeout_s = capacity_bytes, close_timeout_s
        self._queue: deque[_Inference] = deque()
        self._queued_bytes = 0
        self._changed = threading.Condition()
        self._closed = False
        self.sent = self.dropped = self.errors = 0
        self._thread = threading.Thread(target=self._drain, name="tta-tap", daemon=True)
        self._thread.start()

    def offer(
        self,
        id: str,
        x: Array,
        logits: Array,
        version: int,
        *,
        traceparent: str | None = None,
        entity: str | None = None,
    ) -> bool:
        """Queue one inference; False where it was dropped. The arrays must not change afterwards."""
        item = _Inference(id, x, logits, version, time.time(), traceparent, entity)
        with self._changed:
            if self._closed or self._queued_bytes + item.nbytes > self._capacity_bytes:
                self.dropped += 1
                return False
            self._queue.append(item)
            self._queued_bytes += item.nbytes
            self._changed.notify()
        return True

    def counts(self) -> dict[str, int]:
        """Counts of inferences sent, dropped and failed, and the length of the queue."""
        counts = {"sent": self.sent, "dropped": self.dropped, "errors": self.errors}
        return {**counts, "queued": len(self._queue), "queued_bytes": self._queued_bytes}

    def close(self) -> None:
        """Send and flush the queue, for `close_timeout_s` at most. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(self._close_timeout_s)

    def _drain(self) -> None:
        while (item := self._next()) is not None:
            try:
                self._send(item)
                self.sent += 1
            except Exception as error:  # whatever the log does, answering goes on
                self._count_error(error)
        try:
            self._producer.flush()
        except Exception as error:
            self._count_error(error)

    def _next(self) -> _Inference | None:
        """The oldest that waits, or None once closed and empty."""
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            if not self._queue:
                return None
            item = self._queue.popleft()
            self._queued_bytes -= item.nbytes
            return item

    def _send(self, item: _Inference) -> None:
        key, value, headers = self._codec.encode_inference(
            item.id,
            item.x,
            item.logits,
            item.version,
            source=f"/v2/models/{self._model}",
            model=self._model,
            time_s=item.time_s,
            traceparent=item.traceparent,
            entity=item.entity,
        )
        self._producer.send(self._topic, key, value, headers)

    def _count_error(self, error: Exception) -> None:
        self.errors += 1
        if self.errors.bit_count() == 1:  # 1, 2, 4, 8 ...: a broker that is away must not fill the disk
            _log.warning("tap: %d inferences were not logged: %s", self.errors, error)
