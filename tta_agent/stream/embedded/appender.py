"""Producer to the embedded log: one thread that gathers records into transactions."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tta_agent.core.errors import StreamError
from tta_agent.core.types import Done, Headers
from tta_agent.stream.embedded.rows import headers_to_text
from tta_agent.stream.embedded.store import DEFAULT_PARTITIONS, FILE, open_log
from tta_agent.stream.embedded.writer import Message, Writer

RETRY_S = 0.5
BATCH_RECORDS = 2000  # bounds how long one transaction keeps other writers waiting


class EmbeddedProducer:
    """Producer to the embedded log; implements `Producer`. Records without a key take turns over the partitions.

    Args:
        path: the file; it is created, and so are missing topics.
        partitions: of topics that do not exist yet.
        retention_records: how many records each partition keeps.
        retention_bytes: how many bytes each partition keeps; at least its last record stays.
        linger_s: longest wait of a record for others of its transaction.
        buffer_bytes: bound of the queue; beyond it, `send` waits.

    Raises:
        StreamError: the file is damaged or cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        partitions: int = DEFAULT_PARTITIONS,
        retention_records: int = 100_000,
        *,
        retention_bytes: int = 256 << 20,
        linger_s: float = 0.005,
        buffer_bytes: int = 16 << 20,
    ) -> None:
        self._path = Path(path)
        self._linger_s = linger_s
        self._buffer_bytes = buffer_bytes
        self._log = open_log(self._path, durable=True)
        self._writer = Writer(self._log, partitions, retention_records, retention_bytes)
        self._changed = threading.Condition()  # guards everything below
        self._waiting: list[Message] = []
        self._waiting_bytes = 0
        self._sent = 0
        self._written = 0
        self._flushing = 0
        self._error: StreamError | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="tta-embedded-producer", daemon=True)
        self._thread.start()

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        on_done: Done | None = None,
    ) -> None:
        """See `Producer`. After a failed write it raises until a retry has succeeded; nothing is lost."""
        message = Message(topic, key, value, headers_to_text(headers), time.time_ns() // 1_000_000, on_done)
        with self._changed:
            self._changed.wait_for(
                lambda: self._waiting_bytes < self._buffer_bytes or self._error or self._closing
            )
            self._raise_error()
            if self._closing:
                raise StreamError("the producer is closed")
            self._waiting.append(message)
            self._waiting_bytes += message.size_bytes
            self._sent += 1
            self._changed.notify_all()

    def flush(self) -> None:
        """See `Producer`. Durable also through a power cut."""
        with self._changed:
            last = self._sent
            self._flushing += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._written >= last or self._error)
            self._flushing -= 1
            if self._written < last:
                self._raise_error()

    def close(self) -> None:
        """See `Producer`. Raises StreamError where the last records could not be written."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._log.close()
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise StreamError(str(self._error)) from self._error

    def _run(self) -> None:
        while batch := self._next_batch():
            if not self._settle(batch, self._try_to_write(batch)):
                return

    def _settle(self, batch: Sequence[Message], error: StreamError | None) -> bool:
        """Take note of an outcome; False where the producer is closed and the rest is given up."""
        with self._changed:
            self._error = error
            if error is None:
                self._forget(batch)
            self._changed.notify_all()
            given_up = list(self._waiting) if error and self._closing else []
        _tell(given_up if error else batch, error)
        if error and not given_up:
            with self._changed:
                self._changed.wait_for(lambda: self._closing, RETRY_S)
        return not given_up

    def _next_batch(self) -> list[Message]:
        """Wait for records, and a little for more; empty when closing with nothing left."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            self._changed.wait_for(self._in_a_hurry, self._linger_s)
            return self._waiting[:BATCH_RECORDS]

    def _in_a_hurry(self) -> bool:
        return self._closing or self._flushing > 0 or self._waiting_bytes >= self._buffer_bytes // 2

    def _forget(self, batch: Sequence[Message]) -> None:
        del self._waiting[: len(batch)]
        self._waiting_bytes -= sum(message.size_bytes for message in batch)
        self._written += len(batch)

    def _try_to_write(self, batch: Sequence[Message]) -> StreamError | None:
        try:
            with FILE.explained(self._path):
                self._writer.write(batch)
        except StreamError as error:
            return error
        return None


def _tell(batch: Sequence[Message], error: StreamError | None) -> None:
    for message in batch:
        if message.on_done is not None:
            message.on_done(error)
