"""Messages of librdkafka: taken from its queue as soon as there are any, and made into records."""

from __future__ import annotations

import time
from collections import deque

from confluent_kafka import Consumer, Message

from tta_agent.core.types import Headers, RawRecord
from tta_agent.stream.decoder import UNREADABLE

SERVE_EVERY_S = 1.0  # while nothing is to be delivered


class MessageQueue:
    """Queue of a consumer of confluent-kafka.

    The group is served by taking messages alone. One that comes while nothing is to be delivered is held.
    """

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._held: deque[Message] = deque()
        self._served_s = 0.0

    @property
    def held_bytes(self) -> int:
        """Bytes of the messages that are held."""
        return sum(map(len, self._held))

    def clear(self) -> None:
        """Drop what is held: it is void, or fetched again."""
        self._held.clear()

    def take(self, timeout_s: float, most: int) -> list[Message]:
        """Messages, those that are held first, and errors."""
        found = [self._held.popleft() for _ in range(min(most, len(self._held)))]
        if not found:
            first = self._consumer.poll(timeout_s)
            if first is None:
                return []
            found.append(first)
        room = most - len(found)
        return [*found, *self._consumer.consume(room, 0)] if room else found

    def serve(self, timeout_s: float) -> None:
        """Serve the group."""
        message = self._consumer.poll(timeout_s)
        if message is not None:
            self._held.append(message)

    def rest(self, timeout_s: float) -> None:
        """Wait, and serve the group now and then: each time one more message is held."""
        now_s = time.monotonic()
        if now_s - self._served_s > SERVE_EVERY_S:
            self._served_s = now_s
            self.serve(0.0)
        time.sleep(max(0.0, now_s + timeout_s - time.monotonic()))


def raw_record(message: Message) -> RawRecord:
    """Record of a message without an error."""
    place = (message.topic(), message.partition(), message.offset(), message.timestamp()[1])
    return RawRecord(*place, message.key(), message.value(), _headers(message))


def _headers(message: Message) -> Headers:
    """Headers of a message; where a name is not in UTF-8, the reason why the record cannot be read."""
    try:
        return tuple((name, value or b"") for name, value in message.headers() or ())
    except UnicodeDecodeError as error:
        return ((UNREADABLE, f"the name of a header cannot be read: {error}".encode()),)
