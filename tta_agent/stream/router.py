"""Raw records to samples, and each sample to its use: duplicate, stale, held out for the gate, or for learning."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tta_agent.core.errors import DecodeError, StreamError
from tta_agent.core.protocols import Codec, Producer
from tta_agent.core.types import Label, Message, Partition, Positions, RawRecord, Record, Shape
from tta_agent.labels.join import LabelJoiner, Outcome
from tta_agent.stream.batcher import held_out

log = logging.getLogger(__name__)
REMEMBERED = 100_000  # identities kept for dropping duplicates
Identity = tuple[str, ...]  # source, id, type
MAX_MESSAGE = 1000  # characters of an error that travel to the dead-letter topic


class Decoder:
    """Decodes records; an unreadable one is counted and goes to the dead-letter topic, and reading goes on.

    Args:
        shape: of one sample, without the batch axis; None takes any.
        classes: logits of one sample; None takes any number.
        producer, topic: where dead letters go; without them unreadable records are only counted.
        dropped: called with `dead_letter` and a count where a dead letter could not be written.

    Attributes:
        refused: unreadable records by reason.
        first: place and error of the first of them.
    """

    def __init__(
        self,
        codec: Codec,
        shape: Shape | None,
        classes: int | None,
        producer: Producer | None = None,
        topic: str | None = None,
        dropped: Callable[[str, int], None] = lambda reason, count: None,
    ) -> None:
        self._codec, self._shape, self._classes = codec, shape, classes
        self._producer, self._topic, self._dropped = producer, topic, dropped
        self.refused: Counter[str] = Counter()
        self.first = ""

    def read(self, raws: Iterable[RawRecord]) -> list[Record | Label]:
        """Samples and labels of all readable records, in their order."""
        return [item for raw in raws for item in self._one(raw)]

    def _one(self, raw: RawRecord) -> Sequence[Record | Label]:
        try:
            return self._codec.decode(raw, self._shape, self._classes)
        except DecodeError as error:
            self._refuse(raw, error)
            return ()

    def _refuse(self, raw: RawRecord, error: DecodeError) -> None:
        where = f"{raw.topic}[{raw.partition}]@{raw.offset}"
        self.first = self.first or f"{where}: {error}"
        self.refused[error.reason] += 1
        if self.refused[error.reason] == 1:  # the first of a kind is told, the others are counted
            log.warning("%s cannot be read: %s", where, error)
        if self._producer is None or not self._topic:
            return
        try:
            self._producer.send(self._topic, *dead_letter(raw, error))
        except StreamError as down:
            self._dropped("dead_letter", 1)
            log.warning("a dead letter could not be written: %s", down)


def dead_letter(raw: RawRecord, error: DecodeError) -> Message:
    """The record as it came, in whatever format, with reason and place in headers `tta_dlq_*`."""
    why = {
        "reason": error.reason,
        "exception": str(error)[:MAX_MESSAGE],
        "topic": raw.topic,
        "partition": str(raw.partition),
        "offset": str(raw.offset),
        "time": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
    }
    # a record that fails a second time, after a replay, tells only of its latest failure
    kept = tuple(header for header in raw.headers if not header[0].startswith("tta_dlq_"))
    return raw.key, raw.value, kept + tuple((f"tta_dlq_{name}", text.encode()) for name, text in why.items())


@dataclass(slots=True)
class RoutedRecords:
    """One poll's items by what they are for."""

    teach: list[Record] = field(default_factory=list)
    held: list[Record] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        records = sum(record.nbytes for record in (*self.held, *self.teach))
        return records + sum(label.nbytes for label in self.labels)


class RecordRouter:
    """Decides what each sample is for.

    Args:
        join: late labels to served answers.
        holdout: share of entities that only the gate sees.
        max_age_s: older samples are neither learnt from nor judged by.
        clock: seconds since the epoch.
    """

    def __init__(
        self, join: LabelJoiner, holdout: float, max_age_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._join, self._holdout, self._max_age_s, self._clock = join, holdout, max_age_s, clock
        self._identities: OrderedDict[Identity, tuple[Partition, int]] = OrderedDict()

    def sort(self, items: Iterable[Record | Label]) -> RoutedRecords:
        """Each item to one pile; labels that came before their record follow it."""
        out = RoutedRecords()
        for item in items:
            if isinstance(item, Label):
                self._label(item, out)
            elif self._is_duplicate(item):
                out.dropped["duplicate"] += 1
            else:
                self._record(item, out)
        return out

    def flush(self) -> None:
        """Labels that wait are durable when this returns: offsets may be committed."""
        self._join.flush()

    def close(self) -> None:
        """Nothing may be sorted afterwards."""
        self._join.close()

    def dealt_with(self, waiting: Positions) -> list[Identity]:
        """Who stands at or after these offsets and has been sorted: they will be read again after a restart."""
        known = self._identities.items()
        return [identity for identity, (where, offset) in known if offset >= waiting.get(where, sys.maxsize)]

    def remember(self, identities: Iterable[Identity]) -> None:
        """Take these for duplicates when they come again."""
        self._identities.update((identity, (("", 0), -1)) for identity in map(tuple, identities))

    def _record(self, record: Record, out: RoutedRecords) -> None:
        early = self._join.expect(record)
        if early is not None:
            self._label(early, out)
        if self._clock() - record.time_s > self._max_age_s:
            out.dropped["stale"] += 1
        elif held_out(record.key, self._holdout):
            out.held.append(record)
        else:
            out.teach.append(record)

    def _label(self, label: Label, out: RoutedRecords) -> None:
        outcome = self._join.arrive(label)
        if outcome is not None and outcome.late:
            return  # the store has counted it; nobody may use it
        out.labels.append(label)
        if outcome is not None:
            out.outcomes.append(outcome)

    def _is_duplicate(self, record: Record) -> bool:
        known = record.identity in self._identities
        self._identities[record.identity] = ((record.topic, record.partition), record.offset)
        if len(self._identities) > REMEMBERED:
            self._identities.popitem(last=False)
        return known
