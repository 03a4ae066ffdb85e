"""The server's log of inferences. It never delays or fails a request: where it cannot keep up it drops and counts."""

from __future__ import annotations

import time
from functools import partial

from tta_agent.core.stream_protocols import Producer, WritingCodec
from tta_agent.core.types import Array
from tta_agent.stream.outbox import CAPACITY_BYTES, Outbox

__all__ = ["CAPACITY_BYTES", "Tap"]


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
        self._codec, self._topic, self._model = codec, topic, model
        self._outbox = Outbox(
            producer, {topic: "inference"}, capacity_bytes=capacity_bytes, close_timeout_s=close_timeout_s
        )

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
        encode = partial(
            self._codec.encode_inference, id, x, logits, version, source=f"/v2/models/{self._model}",
            model=self._model, time_s=time.time(), traceparent=traceparent, entity=entity,
        )  # fmt: skip
        return self._outbox.offer(self._topic, encode, x.nbytes + logits.nbytes)

    def counts(self) -> dict[str, int]:
        """Inferences that the log has acknowledged as `sent`, and those that were lost; length of the queue."""
        queue = {"queued": self._outbox.queued, "queued_bytes": self._outbox.queued_bytes}
        return {**self._outbox.counts, **queue}

    def close(self) -> None:
        """Send and flush the queue, for `close_timeout_s` at most. Idempotent."""
        self._outbox.close()
