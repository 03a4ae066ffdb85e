"""Receiver and producer over HTTP, by the settings. The producer's side imports no web server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tta_agent.settings.schema import Settings
from tta_agent.settings.secret import revealed
from tta_agent.stream.http.producer import HttpProducer

if TYPE_CHECKING:
    from tta_agent.stream.http.consumer import HttpStreamConsumer

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # to listen on, and to post to from this machine


def open_receiver(settings: Settings, topics: Sequence[str]) -> HttpStreamConsumer:
    """Listen for records.

    Raises:
        ConfigError: the address cannot be had.
    """
    from tta_agent.stream.http.consumer import HttpStreamConsumer

    r = settings.receiver
    return HttpStreamConsumer(
        topics, settings.stream.labels_topic, host=r.host, port=r.port, token=revealed(r.token), hosts=r.hosts,
        body_bytes=r.body_bytes, queue_bytes=settings.stream.queue_bytes,
    )  # fmt: skip


def open_poster(settings: Settings) -> HttpProducer:
    """Producer to the receiver of these settings; it connects at the first record."""
    r = settings.receiver
    host = EVERYWHERE.get(r.host, f"[{r.host}]" if ":" in r.host else r.host)
    return HttpProducer(r.url or f"http://{host}:{r.port}", settings.stream.labels_topic, revealed(r.token))
