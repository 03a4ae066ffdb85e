"""Routing of samples: duplicate, stale, held out for the gates, or for learning; labels to their answers."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from tta_agent.core.errors import TtaError
from tta_agent.core.types import Label, Partition, Positions, Record
from tta_agent.labels.join import LabelJoiner, Outcome
from tta_agent.stream.batcher import held_out
from tta_agent.stream.sampling import Waiting, WindowSample

log = logging.getLogger(__name__)
REMEMBERED = 100_000  # identities kept for dropping duplicates
Identity = tuple[str, ...]  # source, id, type


@dataclass(slots=True)
class RoutedRecords:
    """Items of one poll by their use."""

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
    """Router of samples to their use.

    Args:
        join: late labels to served answers.
        holdout: share of entities that only the gates see.
        max_age_s: older samples serve neither learning nor evaluation.
        clock: seconds since the epoch.
        salt: of the hold-out's hash, see `held_out`.
        sample: of the records of each window; None takes all.
    """

    def __init__(
        self,
        join: LabelJoiner,
        holdout: float,
        max_age_s: float,
        clock: Callable[[], float] = time.time,
        salt: bytes = b"",
        sample: WindowSample | None = None,
    ) -> None:
        self._join, self._holdout, self._max_age_s, self._clock = join, holdout, max_age_s, clock
        self._salt = salt
        self._sample = sample
        self._identities: OrderedDict[Identity, tuple[Partition, int]] = OrderedDict()
        self._places: dict[Partition, Partition] = {}  # one object for all records of a partition
        self._told = False

    def sort(self, items: Iterable[Record | Label]) -> RoutedRecords:
        """Route the items of one poll; labels that came before their record follow it.

        Raises:
            CheckpointError: the file of the labels cannot be used. Whatever else an item raises is counted as
                `internal`, and the item is left out.
        """
        out, items = RoutedRecords(), list(items)
        self._look_up(items)
        if self._sample is not None:
            self._use(self._sample.due(), out)
        for item in items:
            try:
                self._sort_one(item, out)
            except TtaError:
                raise
            except Exception:
                out.dropped["internal"] += 1
                self._tell(item)
        return out

    def _look_up(self, items: Iterable[Record | Label]) -> None:
        """Have the entries of all items read at once; where one has no usable id, each is read in its turn."""
        try:
            self._join.look_up(item.id for item in items)
        except TtaError:
            raise
        except Exception:
            log.debug("an item has no usable id", exc_info=True)  # it is counted when its turn comes

    def _sort_one(self, item: Record | Label, out: RoutedRecords) -> None:
        if isinstance(item, Label):
            if self._sample is None or not self._sample.holds(item):
                self._label(item, out)
        elif self._is_duplicate(item):
            out.dropped["duplicate"] += 1
        else:
            self._record(item, out)

    def _tell(self, item: Record | Label) -> None:
        if not self._told:  # the first is told, the others are counted
            log.exception(
                "%s[%d]@%d cannot be routed, and is left out", item.topic, item.partition, item.offset
            )
        self._told = True

    @property
    def label_counts(self) -> Mapping[str, int]:
        """Counts of the label store."""
        return self._join.counts

    def waiting(self) -> list[Record]:
        """Records that wait for the end of their window."""
        return self._sample.waiting() if self._sample else []

    def flush(self) -> None:
        """Make waiting labels durable, so that offsets may be committed."""
        self._join.flush()

    def close(self) -> None:
        """Close the file of the labels; nothing may be routed afterwards."""
        self._join.close()

    def dealt_with(self, waiting: Positions) -> list[Identity]:
        """Identities of routed records at or after these offsets, which will be read again after a restart."""
        known = self._identities.items()
        return [identity for identity, (where, offset) in known if offset >= waiting.get(where, sys.maxsize)]

    def remember(self, identities: Iterable[Identity]) -> None:
        """Take records of these identities for duplicates when they come again."""
        self._identities.update((identity, (("", 0), -1)) for identity in map(tuple, identities))

    def _record(self, record: Record, out: RoutedRecords) -> None:
        early = self._join.expect(record)
        stale = self._clock() - record.time_s > self._max_age_s
        if self._sample is not None and not stale:
            self._use(self._sample.add(record, early, out.dropped), out)
            return
        if early is not None:
            self._label(early, out)
        if stale:
            out.dropped["stale"] += 1
        else:
            self._deal(record, out)

    def _deal(self, record: Record, out: RoutedRecords) -> None:
        (out.held if held_out(record.key, self._holdout, self._salt) else out.teach).append(record)

    def _use(self, records: Iterable[Waiting], out: RoutedRecords) -> None:
        """Deal records of a window that has ended, and pass their labels on, and those of the others."""
        labels = self._sample.take_freed() if self._sample else []
        for one in records:
            self._deal(one.record, out)
            labels += one.labels
        for label in labels:
            self._label(label, out)

    def _label(self, label: Label, out: RoutedRecords) -> None:
        outcome = self._join.arrive(label)
        if outcome is not None and outcome.late:
            return  # the store has counted it; nobody may use it
        out.labels.append(label)
        if outcome is not None:
            out.outcomes.append(outcome)

    def _is_duplicate(self, record: Record) -> bool:
        known = record.identity in self._identities
        where = (record.topic, record.partition)
        self._identities[record.identity] = self._places.setdefault(where, where), record.offset
        if len(self._identities) > REMEMBERED:
            self._identities.popitem(last=False)
        return known
