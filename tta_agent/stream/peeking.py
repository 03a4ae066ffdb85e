"""Last records of the stream, read beside the agent: nothing is committed, and nothing moves."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tta_agent.core.errors import StreamError
from tta_agent.core.stream_protocols import StreamConsumer
from tta_agent.core.types import RawRecord, Record, Shape
from tta_agent.models.outputs import ModelOutput
from tta_agent.settings.schema import Settings
from tta_agent.stream.decoder import Decoder
from tta_agent.stream.factory import kept_or_refused, open_codec, open_source
from tta_agent.stream.understood import StreamSummary, summarise

JOIN_S = 20.0  # a group may take so long to give us the partitions
QUIET_S = 2.0  # without a record, before what there is counts as all


@dataclass(frozen=True, slots=True)
class PeekedRecord:
    """One raw record, and what became of it.

    Attributes:
        records: samples, and requests and labels that it was read as, in words.
        reason, told: why it cannot be read; empty where it can.
    """

    raw: RawRecord
    read_as: str
    reason: str = ""
    told: str = ""

    def row(self) -> dict[str, Any]:
        """Plain values for JSON."""
        raw = self.raw
        return {
            "topic": raw.topic, "partition": raw.partition, "offset": raw.offset, "timestamp_ms": raw.timestamp_ms,
            "key": (raw.key or b"")[:64].decode(errors="backslashreplace"), "bytes": len(raw.value or b""),
            "headers": [name for name, _ in raw.headers], "read_as": self.read_as, "reason": self.reason,
            "told": self.told,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Peeked:
    """The last records of the topics.

    Attributes:
        rows: raw records, the oldest first.
        records: samples that were read, their answers raw.
        summary: of those.
        joined: requests that met their response, went on alone, and responses without a request.
    """

    rows: Sequence[PeekedRecord]
    records: Sequence[Record]
    summary: StreamSummary | None
    joined: dict[str, int]

    @property
    def refused(self) -> list[PeekedRecord]:
        """Those that cannot be read."""
        return [row for row in self.rows if row.reason]


def peek(
    settings: Settings,
    count: int = 20,
    *,
    shape: Shape | None = None,
    classes: int | None = None,
    output: ModelOutput | None = None,
) -> Peeked:
    """Read and decode the last records of the inferences, and of their responses where those have a topic.

    Args:
        count: records at most.
        shape, classes, output: of the model where it is known; else of the settings.

    Raises:
        StreamError: the stream cannot be reached, or there is no embedded log yet.
        ConfigError: a setting of the stream does not fit.
    """
    s = settings.stream
    raws = last_records(settings, [topic for topic in (s.topic, s.responses_topic) if topic], count)
    shape = settings.model.input_shape if shape is None else shape
    classes = settings.model.classes if classes is None else classes
    codec = open_codec(settings, output.name if output else None)
    decoder = Decoder(codec, shape, classes)
    rows, found = [], []
    for raw in raws:
        before = decoder.refused.copy()
        decoder.first = ""
        items = decoder.read([raw])
        found += items
        reason = next(iter(decoder.refused - before), "")
        rows.append(PeekedRecord(raw, _words(items, reason), reason, decoder.first.partition(": ")[2]))
    found += decoder.flush()
    records = [item for item in found if isinstance(item, Record)]
    summary = summarise(records, getattr(codec, "seen", [s.codec])) if records else None
    return Peeked(rows, records, summary, dict(decoder.joined))


def last_records(settings: Settings, topics: Sequence[str], count: int) -> list[RawRecord]:
    """The last `count` records of the topics, by their timestamps.

    Raises:
        StreamError: as `peek`.
    """
    log = settings.store.path / "log.db"
    kept_or_refused(settings)
    if settings.stream.kind == "embedded" and not log.exists():
        raise StreamError(
            f"there is no embedded log {log} (TTA_STORE__PATH); for Kafka give TTA_STREAM__BOOTSTRAP_SERVERS"
        )
    latest = settings.model_copy(update={"stream": settings.stream.model_copy(update={"start": "latest"})})
    group = f"{settings.stream.group}-peek-{os.getpid()}-{time.time_ns()}"
    with contextlib.closing(open_source(latest, topics, group=group)) as source:
        _join(source)
        ends = dict(source.positions())
        source.seek({place: max(end - count, 0) for place, end in ends.items()})
        found: list[RawRecord] = []
        quiet_s, most = time.monotonic(), count * max(len(ends), 1)
        while time.monotonic() - quiet_s < QUIET_S and len(found) < most:
            new = [
                raw
                for raw in source.poll(0.25)
                if raw.offset < ends.get((raw.topic, raw.partition), math.inf)
            ]
            found += new
            quiet_s = time.monotonic() if new else quiet_s
            if ends.keys() <= set(source.assignment()) and not source.lag():  # while it seeks there is no lag
                break
    return sorted(found, key=lambda raw: (raw.timestamp_ms, raw.topic, raw.partition, raw.offset))[-count:]


def _join(source: StreamConsumer) -> None:
    until_s = time.monotonic() + JOIN_S
    source.poll(0.0)
    while not source.assignment() and time.monotonic() < until_s:
        source.poll(0.25)


def _words(items: Sequence[object], reason: str) -> str:
    if reason:
        return ""
    samples = sum(isinstance(item, Record) for item in items)
    if samples == len(items):
        return f"{samples} samples" if samples else "a request or a response that waits for the other"
    return f"{len(items) - samples} labels"
