"""Consumer of the records that are posted to this process. What has come and was not learnt from is lost at a crash.

Each topic is one partition. There is no log behind it: a position counts records, and reading cannot go back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from tta_agent.core.types import Partition, Positions, RawRecord
from tta_agent.stream.http.queue import ReceivedQueue, ReceivedRecord
from tta_agent.stream.http.receiver import make_receiver
from tta_agent.web.access import OwnHosts, is_loopback
from tta_agent.web.connections import Limits
from tta_agent.web.server import ServerThread, listen

CONNECTIONS = 256
LOST = "receiver_full"  # name of the count
log = logging.getLogger(__name__)


class HttpStreamConsumer:
    """Receiver and queue; implements `StreamConsumer`.

    Args:
        topics: the first is that of records; further ones but that of labels stay empty.
        labels_topic: of what is posted to /labels.
        host, port: to listen on; port 0 takes a free one.
        token: bearer token of each record; None: none is asked for.
        hosts: further names under which it may be asked.
        body_bytes: largest record.
        queue_bytes: bound of the records that wait; beyond it the newest is dropped and counted.
        max_records, max_bytes: of one poll.

    Attributes:
        on_lost: called by the reader with `receiver_full` and the number of records that were dropped.

    Raises:
        ConfigError: the address cannot be had.
    """

    def __init__(
        self,
        topics: Sequence[str],
        labels_topic: str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        hosts: Sequence[str] = (),
        body_bytes: int = 16 << 20,
        queue_bytes: int = 64 << 20,
        max_records: int = 500,
        max_bytes: int = 32 << 20,
    ) -> None:
        if token is None and not is_loopback(host):
            told = "TTA_RECEIVER__HOST=%s without TTA_RECEIVER__TOKEN: whoever reaches it may teach the model"
            log.warning(told, host)
        self._positions: dict[Partition, int] = dict.fromkeys(
            ((topic, 0) for topic in (*topics, labels_topic)), 0
        )
        self._batch, self._paused, self._lost = (max_records, max_bytes), False, 0
        self.on_lost: Callable[[str, int], None] = lambda kind, count: None
        self._queue = ReceivedQueue(queue_bytes)
        own = OwnHosts.of(host, hosts, "TTA_RECEIVER__HOSTS")
        app = make_receiver(
            self._queue, topics[0], labels_topic, body_bytes=body_bytes, token=token, hosts=own
        )
        listener = listen(host, port, "TTA_RECEIVER__")
        self._server = ServerThread(app, listener, host, Limits.of(CONNECTIONS))
        log.info("records are received at %s, labels at %s/labels", self.url, self.url)

    @property
    def url(self) -> str:
        """Address to post to."""
        return self._server.url

    def counts(self) -> Mapping[str, int]:
        """Records that were received, and dropped."""
        return dict(self._queue.counts)

    def poll(self, timeout_s: float) -> Sequence[RawRecord]:
        """See `StreamConsumer`."""
        found: list[ReceivedRecord] = []
        if self._paused:
            time.sleep(timeout_s)  # whatever waits: the caller would poll again at once
        else:
            found = self._queue.take(timeout_s, *self._batch)
        if (dropped := self._queue.counts["dropped"]) > self._lost:
            self.on_lost(LOST, dropped - self._lost)
            self._lost = dropped
        return [self._placed(record) for record in found]

    def _placed(self, record: ReceivedRecord) -> RawRecord:
        offset = self._positions[record.topic, 0]
        self._positions[record.topic, 0] = offset + 1
        return RawRecord(
            record.topic, 0, offset, record.timestamp_ms, record.key, record.value, record.headers
        )

    def pause(self) -> None:
        """See `StreamConsumer`. The queue takes what comes, until it is full."""
        self._paused = True

    def resume(self) -> None:
        """See `StreamConsumer`."""
        self._paused = False

    def lag(self) -> int:
        """See `StreamConsumer`. Records that wait in the queue."""
        return len(self._queue)

    def assignment(self) -> Sequence[Partition]:
        """See `StreamConsumer`."""
        return sorted(self._positions)

    def positions(self) -> Positions:
        """See `StreamConsumer`."""
        return dict(self._positions)

    def topic_ids(self) -> Mapping[str, str]:
        """See `StreamConsumer`. None."""
        return {}

    def seek(self, positions: Positions, topic_ids: Mapping[str, str] | None = None) -> None:
        """See `StreamConsumer`. Only the count goes on from there: what came before has gone."""
        self._positions.update({place: n for place, n in positions.items() if place in self._positions})

    def commit(self, positions: Positions) -> None:
        """See `StreamConsumer`. There is nothing to store."""

    def close(self) -> None:
        """See `StreamConsumer`."""
        self._server.close()
        if waiting := len(self._queue):
            log.warning(
                "%d records that were received are lost: the agent ends before it has read them", waiting
            )
            self._queue.take(0.0, waiting, 1 << 62)
