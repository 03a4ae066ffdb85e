"""A server's log of inferences. It never delays or fails a request: where it cannot keep up it drops and counts."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tta_agent.core.stream_protocols import Producer, WritingCodec
from tta_agent.core.types import Array, Message
from tta_agent.stream.codecs.datatypes import of_bytes
from tta_agent.stream.outbox import CAPACITY_BYTES, CAPACITY_RECORDS, Outbox
from tta_agent.telemetry import tap_counts

__all__ = ["CAPACITY_BYTES", "Tap"]
log = logging.getLogger(__name__)


class Tap:
    """Log of inferences, written from a thread of its own through a queue that is bounded in bytes and records.

    Open it in the process that answers: threads do not survive a fork.

    Args:
        producer: of the log; its owner closes it.
        codec: wire format of the inferences.
        topic: topic of inferences.
        model: name of the model in the server.
        capacity_bytes, capacity_records: bounds of the queue; beyond them the newest inference is dropped.
        close_timeout_s: longest wait of `close` for the queue to empty.
        on_close: called when the queue is empty and closed; frees the producer.

    Attributes:
        codec, model: as given.
    """

    def __init__(
        self,
        producer: Producer,
        codec: WritingCodec,
        topic: str,
        model: str,
        *,
        capacity_bytes: int = CAPACITY_BYTES,
        capacity_records: int = CAPACITY_RECORDS,
        close_timeout_s: float = 5.0,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the thread."""
        self.codec, self.model, self._topic = codec, model, topic
        self._process, self._on_close = os.getpid(), on_close
        self._outbox = Outbox(
            producer, {topic: "inference"}, capacity_bytes=capacity_bytes, capacity_records=capacity_records,
            close_timeout_s=close_timeout_s,
        )  # fmt: skip
        self._left_out: set[str] = set()
        self._counts = {"left_out": 0, "failed": 0}
        tap_counts.observe(self, topic)

    @property
    def source(self) -> str:
        """URI of the producer, as its records name it."""
        return f"/v2/models/{self.model}"

    def record(
        self,
        inputs: Any,
        outputs: Any = None,
        *,
        id: str | None = None,
        version: int | str | None = None,
        traceparent: str | None = None,
        entity: str | None = None,
        copy: bool = True,
    ) -> str | None:
        """Queue one request of N samples; returns at once and raises nothing.

        Args:
            inputs: array [N, ...] as the model got it, or encoded images: `bytes`, or a list of N.
            outputs: answers [N, C], or None where they are not known.
            id: inference id, under which labels come; a new one where not given.
            version: number of the version that answered, or its name; None where it is not known.
            traceparent: W3C trace context of the request.
            entity: session, device or person that the request is about.
            copy: False where the arrays do not change afterwards.

        Returns:
            The id, or None where the inference was dropped.
        """
        try:
            id, x = id or str(uuid.uuid4()), _array(inputs, copy)
            y = None if outputs is None else _array(outputs, copy)
            encode = partial(
                self.codec.encode_inference, id, x, y, version, source=self.source, model=self.model,
                time_s=time.time(), traceparent=traceparent, entity=entity,
            )  # fmt: skip
            return id if self.offer(encode, _size(x) + (0 if y is None else _size(y))) else None
        except Exception as error:  # a server must not fail because of its log
            self.fail(error)
            return None

    def offer(self, make: Callable[[], Message], nbytes: int) -> bool:
        """Queue a message that the thread of the tap makes; False where it was dropped."""
        if os.getpid() != self._process:
            self.leave_out("the process has forked since the tap was opened: open it in each worker")
            return False
        return self._outbox.offer(self._topic, make, nbytes)

    def leave_out(self, why: str) -> None:
        """Count an inference that is not logged; each reason is told once."""
        self._counts["left_out"] += 1
        if why not in self._left_out and len(self._left_out) < 20:
            self._left_out.add(why)
            log.warning("an inference is not logged, and those like it are counted: %s", why)

    def fail(self, error: Exception) -> None:
        """Count an inference that cannot be logged; the first is told."""
        self._counts["failed"] += 1
        if self._counts["failed"] == 1:
            log.warning("an inference cannot be logged, and those like it are counted", exc_info=error)

    def counts(self) -> dict[str, int]:
        """Inferences by outcome, and the length of the queue.

        `sent` were acknowledged by the log; `dropped` (the queue was full), `too_large` and lost by `errors` of the
        log; `failed` are no arrays, and `left_out` were not to be logged.
        """
        queue = {"queued": self._outbox.queued, "queued_bytes": self._outbox.queued_bytes}
        return {**self._outbox.counts, **self._counts, **queue}

    def close(self) -> None:
        """Send and flush the queue, for `close_timeout_s` at most. Idempotent."""
        self._outbox.close()
        if self._outbox.ended:
            self._on_close()


def _array(values: Any, copy: bool) -> Array:
    if isinstance(values, bytes):
        values = [values]
    if isinstance(values, list | tuple) and values and all(isinstance(one, bytes) for one in values):
        return of_bytes(values)
    return np.array(values) if copy else np.asarray(values)


def _size(array: Array) -> int:
    return sum(map(len, array)) if array.dtype == object else array.nbytes
