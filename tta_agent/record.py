"""A topic, joined with its labels, to a recording."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from tta_agent.codecs import cloudevents
from tta_agent.errors import DecodeError
from tta_agent.settings import Settings
from tta_agent.sources.recording import RecordingWriter, Row
from tta_agent.streams import open_source
from tta_agent.types import Label, RawRecord, Record


def record(
    settings: Settings,
    folder: Path,
    count: int,
    follow_s: float,
    progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Read the labels that there are, then up to `count` inferences from the beginning of the topic.

    Args:
        follow_s: wait so long for more when the end of a topic is reached.

    Raises:
        ConfigError: the folder holds a recording already.
        StreamError: the stream cannot be reached.
    """
    s = settings.model_copy(update={"stream": settings.stream.model_copy(update={"start": "earliest"})})
    labels = {
        item.id: item.label for item in _items(s, s.stream.labels_topic, follow_s) if isinstance(item, Label)
    }
    done = 0
    with RecordingWriter(folder, model=s.model.served_as, classes=s.model.classes) as writer:
        for item in _items(s, s.stream.topic, follow_s):
            if isinstance(item, Record) and done < count:
                writer.add(_row(item, labels.get(item.id)))
                done += 1
                progress(done)
            if done >= count:
                break
    return done


def _row(record: Record, label: int | None) -> Row:
    return Row(
        record.id,
        record.time_s,
        record.key,
        record.x,
        label=label,
        served=record.served,
        version=record.version,
    )


def _items(settings: Settings, topic: str, follow_s: float) -> Iterator[Record | Label]:
    # a group of its own: the agent's positions stay where they are
    source = open_source(
        settings, [topic], group=f"{settings.stream.group}-record-{os.getpid()}-{time.time_ns()}"
    )
    with closing(source):
        last_s = time.monotonic()
        while time.monotonic() - last_s < follow_s:
            for raw in source.poll(0.25):
                last_s = time.monotonic()
                yield from _decode(raw)


def _decode(raw: RawRecord) -> list[Record | Label]:
    try:
        return cloudevents.decode(raw, None, None)
    except DecodeError:
        return []  # what the agent could not read, a replay could not either
