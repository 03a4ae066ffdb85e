"""Entities that have taught the copy: their later records are no independent evidence for its candidates."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from tta_agent.core.types import Record

REMEMBERED = (
    100_000  # entities, those of the latest records; one that comes back after so many others counts as new
)


class TaughtEntities:
    """Memory of the entities that have taught the copy, each with its place in the order of teaching.

    A pinned candidate has learnt from the entities that came before its birth. Records of all others are as new to it
    as those of held-out entities. An entity of a single record (its key is the record's id) cannot come again, and
    takes no place.

    Attributes:
        count: teaching records so far.
    """

    def __init__(self) -> None:
        self._first: OrderedDict[str, int] = OrderedDict()  # by entity, the one that comes again last
        self.count = 0

    def add(self, records: Sequence[Record]) -> None:
        """Take in teaching records, in order of arrival."""
        for record in records:
            self.count += 1
            if record.key != record.id:
                self._first.setdefault(record.key, self.count)
                self._first.move_to_end(record.key)
        while len(self._first) > REMEMBERED:
            self._first.popitem(last=False)

    def among_first(self, entity: str, count: int) -> bool:
        """Whether the entity had taught when there were `count` teaching records."""
        return self._first.get(entity, count + 1) <= count

    def state_dict(self) -> dict[str, Any]:
        """Count, and the entities."""
        return {"count": self.count, "first": list(self._first.items())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.count, self._first = state["count"], OrderedDict((name, n) for name, n in state["first"])
