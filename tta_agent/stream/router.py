"""From raw records to samples: what cannot be read, is too old, came twice, or belongs to the gate."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tta_agent.core.errors import DecodeError, StreamError
from tta_agent.core.protocols import Producer
from tta_agent.core.types import Headers, Label, Partition, Positions, RawRecord, Record
from tta_agent.labels.join import LabelJoiner, Outcome
from tta_agent.stream.batcher import held_out

log = logging.getLogger(__name__)
REMEMBERED = 100_000  # identities kept for dropping duplicates
Identity = tuple[str, ...]  # source, id, type
Letter = tuple[bytes | None, bytes | None, Headers]


class Decoder:
    """Decodes; what cannot be read goes to its own topic, whole, with the reason, and the loop goes on.

    Args:
        decode: raw record -> samples and labels; raises DecodeError.
        letter: raw record, reason, message -> what is written to `topic`.
        topic: dead-letter topic; None only counts.
        dropped: called with `dead_letter` and a count where a dead letter could not be written.
    """

    def __init__(
        self,
        decode: Callable[[RawRecord], Sequence[Record | Label]],
        letter: Callable[[RawRecord, str, str], Letter],
        producer: Producer,
        topic: str | None,
        dropped: Callable[[str, int], None] = lambda reason, count: None,
    ) -> None:
        self._decode, self._letter, self._producer, self._topic = decode, letter, producer, topic
        self._dropped = dropped
        self.refused: Counter[str] = Counter()

    def read(self, raws: Iterable[RawRecord]) -> list[Record | Label]:
        """Everything that can be read."""
        return [item for raw in raws for item in self._one(raw)]

    def _one(self, raw: RawRecord) -> Sequence[Record | Label]:
        try:
            return self._decode(raw)
        except DecodeError as error:
            self._refuse(raw, error)
            return ()

    def _refuse(self, raw: RawRecord, error: DecodeError) -> None:
        self.refused[error.reason] += 1
        if self.refused[error.reason] == 1:  # the first of a kind is told, the others are counted
            log.warning("%s[%d]@%d cannot be read: %s", raw.topic, raw.partition, raw.offset, error)
        if not self._topic:
            return
        try:
            self._producer.send(self._topic, *self._letter(raw, error.reason, str(error)))
        except StreamError as down:
            self._dropped("dead_letter", 1)
            log.warning("a dead letter could not be written: %s", down)


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
        """Bytes held for gate and watch."""
        return sum(record.nbytes for record in (*self.held, *self.teach))


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
