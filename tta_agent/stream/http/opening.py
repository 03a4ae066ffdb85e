"""Receiver and producer over HTTP, by the settings."""

from __future__ import annotations

from collections.abc import Sequence

from tta_agent.settings.schema import Settings
from tta_agent.settings.secret import revealed
from tta_agent.stream.http.consumer import HttpStreamConsumer
from tta_agent.stream.http.producer import HttpProducer
from tta_agent.web.server import address


def open_receiver(settings: Settings, topics: Sequence[str]) -> HttpStreamConsumer:
    """Listen for records.

    Raises:
        ConfigError: the address cannot be had.
    """
    r = settings.receiver
    return HttpStreamConsumer(
        topics, settings.stream.labels_topic, host=r.host, port=r.port, token=revealed(r.token), hosts=r.hosts,
        body_bytes=r.body_bytes, queue_bytes=settings.stream.queue_bytes,
    )  # fmt: skip


def open_poster(settings: Settings) -> HttpProducer:
    """Producer to the receiver of these settings; it connects at the first record."""
    r = settings.receiver
    url = r.url or address("127.0.0.1" if r.host in ("0.0.0.0", "::") else r.host, r.port)
    return HttpProducer(url, settings.stream.labels_topic, revealed(r.token))
