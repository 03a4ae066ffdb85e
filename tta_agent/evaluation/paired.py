"""Two graphs on the same records, and what late labels say about them."""

from __future__ import annotations

import functools
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch

from tta_agent.core.evidence import LabelledPair
from tta_agent.core.types import Array, Label, Positions, Record
from tta_agent.models.ort_sessions import Session, run

REMEMBERED = 50_000  # records that may still get a label; labels whose order is kept


class BatchPredictions:
    """Records that arrived together, and what any graph says to them: each graph is asked once."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = {record.id: record for record in records}
        self._answers: dict[int, Array] = {}

    @functools.cached_property
    def x(self) -> Array:
        """Inputs [n, ...], in order."""
        return np.stack([record.x for record in self.records.values()])

    def by(self, session: Session, names: Sequence[str]) -> Array:
        """Logits [n, C] of the records with these ids."""
        if id(session) not in self._answers:
            self._answers[id(session)] = run(session, self.x)
        places = {name: i for i, name in enumerate(self.records)}
        return self._answers[id(session)][[places[name] for name in names]]


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A record that may still get a label: both classes, whose it is, its stretch of time."""

    first: int
    second: int
    tenant: str
    entity: str
    bucket: int


class PairedEvaluation:
    """Paired evaluation in ONNX Runtime.

    Args:
        graphs: sessions by role; `serving` and `candidate` are the pair, others only give their logits.
        born: offsets before which records do not count.
        window: records that are kept for label-free numbers.
        bucket_s: of one entity, one label counts in each stretch of this length; 0 counts all.
    """

    def __init__(self, graphs: Mapping[str, Session], born: Positions, window: int, bucket_s: float) -> None:
        self.graphs, self.born = dict(graphs), dict(born)
        self._window, self._bucket_s = window, bucket_s
        self._logits: dict[str, Array] = {}  # by role, of the window
        self._tenants: deque[str] = deque(maxlen=window)
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._counted: OrderedDict[tuple[str, int], None] = OrderedDict()
        self.judged: deque[LabelledPair] = deque(maxlen=REMEMBERED)
        self.records = self.labels = self.wins = self.losses = 0

    def observe(self, asked: BatchPredictions) -> list[tuple[Record, int, int]]:
        """Take the records that are new to it; each with the class by serving and by the candidate."""
        names = [name for name, record in asked.records.items() if self._is_fresh(record)]
        if not names:
            return []
        answers = {role: asked.by(session, names) for role, session in self.graphs.items()}
        for role, logits in answers.items():
            self._logits[role] = np.concatenate([self._logits.get(role, logits[:0]), logits])[-self._window :]
        pair = (answers[role].argmax(1).tolist() for role in ("serving", "candidate"))
        fresh = [
            (asked.records[name], *both) for name, both in zip(names, zip(*pair, strict=True), strict=True)
        ]
        for record, first, second in fresh:
            self._expect(record, first, second)
        return fresh

    def _is_fresh(self, record: Record) -> bool:
        newer = record.offset >= self.born.get((record.topic, record.partition), 0)
        return newer and record.id not in self._seen

    def _expect(self, record: Record, first: int, second: int) -> None:
        bucket = int(record.time_s // self._bucket_s) if self._bucket_s else self.records
        tenant = record.tenant or record.key
        self._waiting[record.id] = _Waiting(first, second, tenant, record.key, bucket)
        self._seen[record.id] = None
        self._tenants.append(tenant)
        self.records += 1
        for memory in (self._waiting, self._seen, self._counted):
            if len(memory) > REMEMBERED:
                memory.popitem(last=False)

    def label(self, label: Label) -> LabelledPair | None:
        """Count one label; None for other records, second labels, and second ones of an entity in its stretch."""
        found = self._waiting.pop(label.id, None)
        if found is None or (found.entity, found.bucket) in self._counted:
            return None
        self._counted[found.entity, found.bucket] = None
        judged = LabelledPair(label.label, found.first, found.second, found.tenant)
        self.judged.append(judged)
        self.labels += 1
        self.wins += judged.step > 0
        self.losses += judged.step < 0
        return judged

    def window(self, role: str) -> Array:
        """Logits [N, C] on the latest records, in order."""
        return self._logits.get(role, np.empty((0, 1), np.float32))

    @property
    def held(self) -> int:
        """Records in the window now."""
        return len(self._tenants)

    @property
    def tenants(self) -> tuple[str, ...]:
        """Whose the records of the window are, [N]."""
        return tuple(self._tenants)

    def forget_window(self) -> None:
        """Begin a new window; labels and counts stay."""
        self._logits.clear()
        self._tenants.clear()

    def state_dict(self) -> dict[str, Any]:
        """Everything but the sessions."""
        return {
            "born": self.born,
            "logits": {role: torch.from_numpy(kept) for role, kept in self._logits.items()},
            "tenants": list(self._tenants),
            "waiting": {name: astuple(waiting) for name, waiting in self._waiting.items()},
            "seen": list(self._seen),
            "counted": list(self._counted),
            "judged": [astuple(judged) for judged in self.judged],
            "counts": (self.records, self.labels, self.wins, self.losses),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` of the same graphs."""
        self.born = dict(state["born"])
        self._logits = {role: kept.numpy() for role, kept in state["logits"].items()}
        self._tenants = deque(state["tenants"], maxlen=self._window)
        self._waiting = OrderedDict((name, _Waiting(*fields)) for name, fields in state["waiting"].items())
        self._seen = OrderedDict.fromkeys(state["seen"])
        self._counted = OrderedDict.fromkeys((entity, bucket) for entity, bucket in state["counted"])
        self.judged = deque((LabelledPair(*fields) for fields in state["judged"]), maxlen=REMEMBERED)
        self.records, self.labels, self.wins, self.losses = state["counts"]
