"""Producer to Kafka: compressed, idempotent, acknowledged by all replicas, bounded in memory."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError
from kafka.serializer import Serializer

from tta_agent.core.errors import MessageTooLarge, StreamError
from tta_agent.core.types import Done, Headers
from tta_agent.stream.kafka.client import CONNECT_TIMEOUT_S, connect
from tta_agent.stream.kafka.limits import TopicLimits, size_of

_NOTHING = object()
log = logging.getLogger(__name__)


class KafkaStreamProducer:
    """Producer to Kafka topics; implements `Producer`.

    Args:
        bootstrap_servers: host:port, several separated by commas.
        connect_timeout_s: how long to try to reach a broker at first, and to find a topic later.
        delivery_timeout_s: a record that no broker takes for so long is given up; then `send` and `flush` raise.
        buffer_bytes: bound of records in flight; beyond it, `send` waits.
        client_options: options of kafka-python, such as the security ones; they win over ours.

    Raises:
        StreamError: no broker answers.
        ConfigError: an option is unknown or impossible.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        delivery_timeout_s: float = 20.0,
        buffer_bytes: int = 32 << 20,
        client_options: Mapping[str, object] | None = None,
    ) -> None:
        own = {
            "max_block_ms": int(connect_timeout_s * 1000),
            "delivery_timeout_ms": int(delivery_timeout_s * 1000),
            "value_serializer": _ValueSerializer(),
        }
        self._servers = bootstrap_servers
        self._delivery_timeout_s = delivery_timeout_s
        self._buffer_bytes = buffer_bytes
        common = (client_options or {}, connect_timeout_s)
        self._open: Callable[[], Any] = lambda: connect(KafkaProducer, bootstrap_servers, own, *common)
        self._limits = TopicLimits(lambda: connect(KafkaAdminClient, bootstrap_servers, {}, *common))
        self._producer: Any = self._open()
        self._replacing = threading.Lock()
        self._changed = threading.Condition()  # guards everything below
        self._on_way_bytes = 0
        self._error: BaseException | None = None
        self._closed = False

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        on_done: Done | None = None,
    ) -> None:
        """See `Producer`. Also raises for an earlier record without `on_done` that could not be delivered.

        Raises:
            MessageTooLarge: the topic takes no record of that size.
            StreamError: the topic does not exist, or the brokers do not answer.
        """
        size_bytes = size_of(key, value, headers)
        parts = (key or b"", value or b"", *(text for _, text in headers))
        self._limits.check(topic, size_bytes, lambda: b"".join(parts))
        with self._changed:
            self._changed.wait_for(lambda: self._on_way_bytes < self._buffer_bytes or self._error)
            self._raise_error()
            self._on_way_bytes += size_bytes
        nothing = key is None and value is None
        try:
            sent = self._client().send(topic, _NOTHING if nothing else value, key, list(headers))
        except (KafkaError, StreamError, ValueError) as error:
            self._done(size_bytes, None)
            advice = f"check that the topic {topic} exists and may be written, and that the broker runs"
            raise StreamError(f"Kafka at {self._servers} does not take records: {error}\n{advice}") from error
        sent.add_callback(lambda _: self._done(size_bytes, None, on_done))
        sent.add_errback(lambda error: self._failed(topic, size_bytes, error, on_done))

    def _client(self) -> Any:
        """The client; a new one where an error has ended it, as each does that is not worth a retry."""
        with self._replacing:
            manager = self._producer._transaction_manager
            if manager is not None and manager.has_fatal_error() and not self._closed:
                log.warning("Kafka's producer is opened anew; it ended with: %s", manager.last_error)
                with contextlib.suppress(KafkaError):
                    self._producer.close(timeout=1)
                self._producer = self._open()
            return self._producer

    def flush(self) -> None:
        """See `Producer`."""
        limit_s = self._delivery_timeout_s + 5  # by then each record is delivered or given up
        try:
            self._producer.flush(limit_s)
        except KafkaError as error:  # the client also gives up where it splits a batch that is too large
            with self._changed:
                if not self._changed.wait_for(lambda: not self._on_way_bytes, limit_s):
                    raise StreamError(f"Kafka at {self._servers} does not take records: {error}") from error
        with self._changed:
            self._raise_error()

    def close(self) -> None:
        """See `Producer`. Raises StreamError where the last records could not be delivered."""
        if self._closed:
            return
        self._closed = True
        try:
            self.flush()
        finally:
            self._producer.close(timeout=5)

    def _done(self, size_bytes: int, error: BaseException | None, on_done: Done | None = None) -> None:
        """Called by the client's thread for each record, delivered or given up."""
        with self._changed:
            self._on_way_bytes -= size_bytes
            if on_done is None:
                self._error = self._error or error
            self._changed.notify_all()
        if on_done is not None:
            on_done(None if error is None else self._refused(error))

    def _failed(self, topic: str, size_bytes: int, error: BaseException, on_done: Done | None) -> None:
        if isinstance(error, MessageSizeTooLargeError):
            self._limits.doubt(topic)
        self._done(size_bytes, error, on_done)

    def _refused(self, error: BaseException) -> StreamError:
        kind: type[StreamError] = (
            MessageTooLarge if isinstance(error, MessageSizeTooLargeError) else StreamError
        )
        message = f"Kafka at {self._servers} did not take records: {error}\ncheck that the broker runs"
        refused = kind(message)
        refused.__cause__ = error
        return refused

    def _raise_error(self) -> None:
        """Raises once for what has failed since the last time."""
        error, self._error = self._error, None
        if error is not None:
            raise self._refused(error)


class _ValueSerializer(Serializer):  # type: ignore[misc]
    """Lets a record pass that has neither key nor value, which the client refuses but Kafka allows."""

    def serialize(self, topic: str, headers: object, data: object) -> object:
        """Called by the client."""
        return None if data is _NOTHING else data
