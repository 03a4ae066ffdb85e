"""Recording of a topic, joined with its labels."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tta_agent.core.errors import ConfigError
from tta_agent.core.stream_protocols import StreamConsumer
from tta_agent.core.types import Answer, Label, RawRecord, Record
from tta_agent.settings.schema import Settings
from tta_agent.stream.decoder import Decoder
from tta_agent.stream.factory import codec_names, kept_or_refused, open_codec, open_source
from tta_agent.stream.recordings.reader import RecordingWriter, Row

PATIENCE_S = 0.25  # of one poll, while both topics are quiet
GLANCE_S = 0.01  # of one poll, while the other topic is not
JOIN_S = 30.0  # a group may take so long to give us our partitions
WAITING_BYTES = 256 << 20  # records that wait for a late label


@dataclass(frozen=True, slots=True)
class Recorded:
    """Outcome of `record`: records written, and a sentence for each topic with unreadable records."""

    records: int
    unreadable: tuple[str, ...] = ()


def record(
    settings: Settings,
    folder: Path,
    count: int,
    follow_s: float,
    progress: Callable[[int], None] = lambda done: None,
) -> Recorded:
    """Record up to `count` inferences from the beginning of the topic, after the labels that are there already.

    While inferences are read, the labels that come meanwhile are read in turn with them, poll by poll: neither topic
    can keep the other waiting, however busy it is. The last records, up to 256 MB, wait for their labels.

    Args:
        follow_s: longest wait for more at the end of the inferences.
        progress: called with the number of inferences read so far.

    Raises:
        ConfigError: the folder holds a recording already, or there is no inference that could be read: then nothing
            is written.
        StreamError: the stream cannot be reached.
    """
    s = settings.model_copy(update={"stream": settings.stream.model_copy(update={"start": "earliest"})})
    _await_log(s, follow_s)
    with (
        RecordingWriter(folder, model=s.model.served_as, classes=s.model.classes) as writer,
        contextlib.ExitStack() as opened,
    ):
        late = opened.enter_context(contextlib.closing(_open(s, s.stream.labels_topic)))
        codec = open_codec(s)
        labels, decoder = _Labels(late, Decoder(codec, None, None), follow_s), Decoder(codec, None, None)
        labels.catch_up()
        unwritten = _Unwritten(writer, labels.known)
        source = opened.enter_context(contextlib.closing(_open(s, s.stream.topic, s.stream.responses_topic)))
        for done, item in enumerate(_taken(source, decoder, labels, count, follow_s), 1):
            unwritten.add(item)
            progress(done)
        labels.catch_up()
        unwritten.write()
        expected = codec_names(codec, s)
        read = (s.stream.topic, decoder), (s.stream.labels_topic, labels.decoder)
        told = tuple(_told(topic, one, expected) for topic, one in read if one.refused)
        if not unwritten.count:
            none = f"no inference is in {s.stream.topic}, and none came within {follow_s:g} s (TTA_STREAM__TOPIC)"
            first, *others = told if decoder.refused else (none, *told)
            raise ConfigError("\n".join((f"nothing to record: {first}", *others)))
        return Recorded(unwritten.count, told)


def _await_log(settings: Settings, follow_s: float) -> None:
    """Wait for an embedded log that others write: to read it would make an empty one."""
    log, deadline_s = settings.store.path / "log.db", time.monotonic() + follow_s
    kept_or_refused(settings)
    while settings.stream.kind == "embedded" and not log.exists():
        if time.monotonic() > deadline_s:
            raise ConfigError(
                f"nothing to record: there is no embedded log {log} (TTA_STORE__PATH); `tta-agent serve` writes it;\n"
                "for Kafka give TTA_STREAM__BOOTSTRAP_SERVERS"
            )
        time.sleep(min(PATIENCE_S, follow_s))


def _told(topic: str, decoder: Decoder, expected: str) -> str:
    reasons = ", ".join(f"{n} {reason}" for reason, n in decoder.refused.most_common())
    return (
        f"unreadable records of {topic}: {decoder.refused.total()} ({reasons}); "
        f"TTA_STREAM__CODEC expects {expected}; the first: {decoder.first}"
    )


class _Labels:
    """The labels topic, and the labels that were read of it."""

    def __init__(self, source: StreamConsumer, decoder: Decoder, follow_s: float) -> None:
        self._source, self.decoder, self._follow_s = source, decoder, follow_s
        self.known: dict[str, Answer] = {}

    def read(self, timeout_s: float) -> int:
        """Poll once; the number of raw records that came."""
        return self._keep(self._source.poll(timeout_s))

    def catch_up(self) -> None:
        """Read the labels that are there now, not those that are added meanwhile: that may never end."""
        self._keep(_joined(self._source))
        left, last_s = self._source.lag(), time.monotonic()
        while left > 0 and time.monotonic() - last_s < self._follow_s:
            if came := self.read(PATIENCE_S):
                left, last_s = left - came, time.monotonic()

    def _keep(self, raws: Sequence[RawRecord]) -> int:
        items = self.decoder.read(raws)
        self.known.update({item.id: item.label for item in items if isinstance(item, Label)})
        return len(raws)


class _Unwritten:
    """Records in the order in which they came, until they are written with the labels known by then."""

    def __init__(self, writer: RecordingWriter, labels: dict[str, Answer]) -> None:
        self._writer, self._labels = writer, labels
        self._records: deque[Record] = deque()
        self._bytes = 0
        self.count = 0

    def add(self, item: Record) -> None:
        """Add a record; the oldest are written where there are too many."""
        self._records.append(item)
        self._bytes += item.nbytes
        self.write(WAITING_BYTES)

    def write(self, keep_bytes: int = -1) -> None:
        """Write all but the newest `keep_bytes`."""
        while self._records and self._bytes > keep_bytes:
            item = self._records.popleft()
            self._bytes -= item.nbytes
            self._writer.add(_row(item, self._labels.get(item.id)))
            self.count += 1


def _taken(
    source: StreamConsumer, decoder: Decoder, labels: _Labels, count: int, follow_s: float
) -> Iterator[Record]:
    """Up to `count` inferences; after each poll of theirs one of the labels."""
    done, raws, last_s = 0, _joined(source), time.monotonic()
    while raws or time.monotonic() - last_s < follow_s:
        for item in decoder.read(raws):
            if isinstance(item, Record) and done < count:
                yield item
                done += 1
        if done >= count:
            return
        last_s = time.monotonic() if raws else last_s
        busy = labels.read(GLANCE_S) + len(raws)
        raws = source.poll(GLANCE_S if busy else PATIENCE_S)
    alone = [item for item in decoder.flush() if isinstance(item, Record)]  # requests without a response
    yield from alone[: count - done]


def _joined(source: StreamConsumer) -> Sequence[RawRecord]:
    """Wait until the group gives us partitions, which takes a broker some seconds; what has come by then."""
    raws, deadline_s = source.poll(PATIENCE_S), time.monotonic() + JOIN_S
    while not raws and not source.assignment() and time.monotonic() < deadline_s:
        raws = source.poll(PATIENCE_S)
    return raws


def _row(record: Record, label: Answer | None) -> Row:
    return Row(
        record.id,
        record.time_s,
        record.key,
        record.x,
        label=label,
        served=record.served,
        version=record.version,
    )


def _open(settings: Settings, *topics: str | None) -> StreamConsumer:
    # a group of its own: the agent's positions stay where they are
    group = f"{settings.stream.group}-record-{os.getpid()}-{time.time_ns()}"
    return open_source(settings, [topic for topic in topics if topic], group=group)
