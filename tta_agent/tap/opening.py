"""A tap on the stream that the `TTA_STREAM__*` variables name."""

from __future__ import annotations

import atexit
from collections.abc import Callable

from tta_agent.core.stream_protocols import Producer
from tta_agent.core.types import Done, Headers
from tta_agent.settings import env
from tta_agent.stream import topic_names
from tta_agent.stream.factory import connection, open_producer, open_writer
from tta_agent.stream.outbox import CAPACITY_BYTES, CAPACITY_RECORDS
from tta_agent.tap.inference_log import Tap

CLOSE_S = 5.0


class LateProducer:
    """Producer that is opened by the first message, in the thread that sends it; a failure is tried again.

    Args:
        open: the producer; raises StreamError where the stream cannot be reached.
    """

    def __init__(self, open: Callable[[], Producer]) -> None:
        self._open = open
        self._producer: Producer | None = None

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        on_done: Done | None = None,
    ) -> None:
        """See `Producer`."""
        if self._producer is None:
            self._producer = self._open()
        self._producer.send(topic, key, value, headers, on_done)

    def flush(self) -> None:
        """See `Producer`."""
        if self._producer is not None:
            self._producer.flush()

    def close(self) -> None:
        """See `Producer`."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()


def connect(
    *,
    model: str | None = None,
    capacity_bytes: int = CAPACITY_BYTES,
    capacity_records: int = CAPACITY_RECORDS,
    close_timeout_s: float = CLOSE_S,
) -> Tap:
    """Open a tap; it is flushed at the end of the process, for `close_timeout_s` at most.

    The stream is that of the environment, as the agent's: `TTA_STREAM__BOOTSTRAP_SERVERS`, `TTA_STREAM__TOPIC` and so
    on. It may be away: inferences are then dropped and counted, and it is tried again.

    Args:
        model: name of the model in the server; TTA_MODEL__SERVED_AS where not given.
        capacity_bytes, capacity_records: bounds of the queue; beyond them the newest inference is dropped.
        close_timeout_s: longest wait of `close` for the queue to empty.

    Raises:
        ConfigError: a setting that does not fit.
    """
    settings = env.load()
    topic = topic_names.written(settings)
    if settings.stream.kind == "kafka":
        connection(settings.stream)  # what is wrong, whether a broker answers or not, is said now
    producer = LateProducer(lambda: open_producer(settings, [topic]))
    tap = Tap(
        producer, open_writer(settings), topic, model or settings.model.served_as, capacity_bytes=capacity_bytes,
        capacity_records=capacity_records, close_timeout_s=close_timeout_s, on_close=producer.close,
    )  # fmt: skip
    atexit.register(tap.close)
    return tap
