"""Held-out records since the last change of regime, for candidates that are made later."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tta_agent.core.types import Label, Record

FIELDS = ("id", "time_s", "key", "topic", "partition", "offset", "tenant")  # of a record that is kept


class RecentRecords:
    """The latest held-out records and the labels that have come for them, within a bound of bytes.

    The copy has learnt nothing from them, so they are evidence for a candidate that is younger than they are: the
    delay of the labels is paid from the change on, and not from the birth of the candidate.

    Args:
        most_bytes: of records, the oldest give way.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._labels: dict[str, Label] = {}
        self._used: set[str] = set()  # records whose label has counted for a candidate

    @property
    def records(self) -> list[Record]:
        """In order of arrival."""
        return list(self._records.values())

    @property
    def labels(self) -> list[Label]:
        """Labels of these records, in order of arrival."""
        return list(self._labels.values())

    def add(self, records: Sequence[Record]) -> None:
        """Keep held-out records; one that comes twice stays where it was."""
        for record in records:
            if record.id not in self._records:
                self._records[record.id] = record
                self._bytes += record.nbytes
        while self._bytes > self._most_bytes:
            name, oldest = self._records.popitem(last=False)
            self._bytes -= oldest.nbytes
            self._labels.pop(name, None)
            self._used.discard(name)

    def on_labels(self, labels: Sequence[Label]) -> None:
        """Keep the first label of each record that is kept."""
        for label in labels:
            if label.id in self._records:
                self._labels.setdefault(label.id, label)

    def first_uses(self, labels: Sequence[Label]) -> int:
        """How many of these labels, which count for a candidate now, have not counted for one before."""
        first = [label.id for label in labels if label.id not in self._used]
        self._used.update(name for name in first if name in self._records)
        return len(first)

    def clear(self) -> None:
        """Forget all: another regime has come."""
        self._records.clear()
        self._labels.clear()
        self._used.clear()
        self._bytes = 0

    def state_dict(self) -> dict[str, Any]:
        """Records without their served answers, labels, and which of them have been used."""
        records = self.records
        inputs = [torch.from_numpy(np.ascontiguousarray(record.x)) for record in records]
        fields = [[getattr(record, name) for name in FIELDS] for record in records]
        labels = [(label.id, label.label, label.time_s) for label in self.labels]
        return {"inputs": inputs, "fields": fields, "labels": labels, "used": sorted(self._used)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; a smaller bound than before keeps fewer."""
        self.clear()
        for x, fields in zip(state["inputs"], state["fields"], strict=True):
            more = {"x": x.numpy(), "served": None, "version": None, "traceparent": None}
            self.add([Record(**dict(zip(FIELDS, fields, strict=True)), **more)])
        self.on_labels([Label(*label) for label in state["labels"]])
        self._used = set(state.get("used", ())) & set(self._records)  # older checkpoints have none
