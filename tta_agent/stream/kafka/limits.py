"""Largest record that a topic takes: checked before sending, since one that is too large ends Kafka's producer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType
from kafka.codec import lz4_encode

from tta_agent.core.errors import MessageTooLarge
from tta_agent.core.types import Headers

DEFAULT_BYTES = 1_048_588  # Kafka's own limit, where the topic's cannot be asked
SURELY_BYTES = 64 << 10  # a topic that has not refused anything takes so much: it is not asked
NEVER_S = float("-inf")
ASK_AGAIN_S = 30.0  # a limit may be raised while records are refused
OVERHEAD_BYTES = 96  # of a batch with one record, beside what the record holds
HEADER_BYTES = 10  # of one header, likewise
CONFIG = "max.message.bytes"
log = logging.getLogger(__name__)


def size_of(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """Bytes of a record on the wire, without compression, at most."""
    named = sum(len(name.encode()) + len(text) + HEADER_BYTES for name, text in headers)
    return OVERHEAD_BYTES + len(key or b"") + len(value or b"") + named


class TopicLimits:
    """Limits of topics, asked from the broker when a record may exceed one.

    Args:
        open_admin: opens an admin client of kafka-python; it is closed after each question.
    """

    def __init__(self, open_admin: Callable[[], Any]) -> None:
        self._open_admin = open_admin
        self._known: dict[str, tuple[int, float]] = {}  # limit, and when it was asked
        self._lock = threading.Lock()

    def check(self, topic: str, size_bytes: int, content: Callable[[], bytes]) -> None:
        """Pass a record that fits.

        Args:
            size_bytes: see `size_of`.
            content: all of its bytes, for records that only fit when they are compressed.

        Raises:
            MessageTooLarge: it does not fit, compressed or not; names the limit and how to raise it.
        """
        if size_bytes <= (limit := self._limit(topic, size_bytes)):
            return
        if len(lz4_encode(content())) + OVERHEAD_BYTES > limit:
            raise MessageTooLarge(
                f"a record of {size_bytes} bytes is larger than topic {topic} takes, {limit} bytes;\n"
                f"raise {CONFIG} of the topic (and message.max.bytes of its brokers), or send fewer samples a request"
            )

    def doubt(self, topic: str) -> None:
        """Ask again before the next record: the topic has refused one."""
        with self._lock:
            self._known[topic] = 0, NEVER_S

    def _limit(self, topic: str, size_bytes: int) -> int:
        with self._lock:
            limit, asked_s = self._known.get(topic, (SURELY_BYTES, NEVER_S))
            if size_bytes > limit and time.monotonic() - asked_s > ASK_AGAIN_S:
                limit = self._ask(topic)
                self._known[topic] = limit, time.monotonic()
            return limit

    def _ask(self, topic: str) -> int:
        try:
            admin = self._open_admin()
            try:
                resource = ConfigResource(ConfigResourceType.TOPIC, topic)
                found = admin.describe_configs([resource], config_filter="all")
                return int(found["topic"][topic][CONFIG]["value"])
            finally:
                admin.close()
        except Exception as error:  # no permission, an old broker, a client that cannot read its answer
            log.info(
                "the limit of topic %s cannot be asked, %d bytes are taken: %s", topic, DEFAULT_BYTES, error
            )
            return DEFAULT_BYTES
