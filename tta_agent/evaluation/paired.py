"""Paired evaluation of two graphs: their answers to the same records, and late labels."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from tta_agent.core import task
from tta_agent.core.evidence import LabelledPair
from tta_agent.core.types import Answer, Array, Label, Positions, Record
from tta_agent.models.ort_sessions import Session, run

PairedRecord = tuple[Record, Answer, Answer]  # a record with its answers by `serving` and by `candidate`
TOGETHER = 128  # records of one run of a graph: its activations must fit into memory
REMEMBERED = 50_000  # records that may still get a label; labels whose order is kept


class BatchPredictions:
    """Records that arrived together, and the answers of any graph to them: each graph answers a record once."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = {record.id: record for record in records}
        self._answers: dict[int, dict[str, Array]] = {}  # by session and record; views share them

    @cached_property
    def x(self) -> Array:
        """Inputs [n, ...], in order."""
        return np.stack([record.x for record in self.records.values()])

    def only(self, records: Sequence[Record]) -> BatchPredictions:
        """View of some of the records, in this order."""
        view = BatchPredictions(records)
        view._answers = self._answers
        return view

    def latest(self, n: int) -> BatchPredictions:
        """View of the latest n records, of all where there are no more."""
        return self.only(list(self.records.values())[-n:])

    def by(self, session: Session, ids: Sequence[str] | None = None) -> Array:
        """Logits [n, C] of the records with these ids, of all where none are given."""
        names = list(self.records) if ids is None else ids
        known = self._answers.setdefault(id(session), {})
        missing = [name for name in names if name not in known]
        for start in range(0, len(missing), TOGETHER):
            some = missing[start : start + TOGETHER]
            whole = some == list(self.records)
            answers = run(session, self.x if whole else np.stack([self.records[name].x for name in some]))
            known.update(zip(some, answers, strict=True))
        return np.stack([known[name] for name in names])


@dataclass(frozen=True, slots=True)
class PairedAnswer:
    """A record's answers by both graphs, while it may still get a label.

    Attributes:
        first, second: answers of `serving` and of `candidate`.
        tenant, entity: whose record it is.
        bucket: stretch of time in which one label of the entity counts.
        confidence: of both answers, 0 .. 1.
    """

    first: Answer
    second: Answer
    tenant: str
    entity: str
    bucket: int
    confidence: tuple[float, float] = (math.nan, math.nan)


class PairedEvaluation:
    """Paired evaluation in ONNX Runtime.

    Args:
        graphs: sessions by role; `serving` and `candidate` are the pair, others only give their logits.
        trained_until: offsets before which records do not count.
        window: records that are kept for label-free numbers.
        bucket_s: of one entity, one label counts in each stretch of this length; 0 counts all.
        learnt_from: whether the candidate has learnt from an entity; its records do not count.
    """

    def __init__(
        self,
        graphs: Mapping[str, Session],
        trained_until: Positions,
        window: int,
        bucket_s: float,
        learnt_from: Callable[[str], bool] = lambda entity: False,
    ) -> None:
        self._learnt_from = learnt_from
        self.graphs, self.trained_until = dict(graphs), dict(trained_until)
        self._window, self._bucket_s = window, bucket_s
        self._logits: dict[str, Array] = {}  # by role, of the window
        self._tenants: deque[str] = deque(maxlen=window)
        self._unlabelled: OrderedDict[str, PairedAnswer] = OrderedDict()
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._counted: OrderedDict[tuple[str, int], None] = OrderedDict()
        self.judged: deque[LabelledPair] = deque(maxlen=REMEMBERED)
        self.records = self.labels = self.wins = self.losses = 0

    def on_records(self, batch: BatchPredictions, *, held_out: bool = False) -> list[PairedRecord]:
        """Take the records that are new to it; each with its answers by `serving` and by `candidate`.

        Args:
            held_out: nothing has been learnt from any of them, so that older ones count, too.
        """
        ids = [name for name, record in batch.records.items() if self._is_fresh(record, held_out)]
        if not ids:
            return []
        answers = {role: batch.by(session, ids) for role, session in self.graphs.items()}
        for role, logits in answers.items():
            self._logits[role] = np.concatenate([self._logits.get(role, logits[:0]), logits])[-self._window :]
        both = [answers[role] for role in ("serving", "candidate")]
        pairs = list(zip(*map(task.answers, both), strict=True))
        with np.errstate(invalid="ignore"):  # not finite: gate `integrity` says so
            sure = list(zip(*(task.certainty(logits).tolist() for logits in both), strict=True))
        fresh = [(batch.records[name], *pair) for name, pair in zip(ids, pairs, strict=True)]
        for (record, first, second), confidence in zip(fresh, sure, strict=True):
            self._remember(record, first, second, confidence)
        return fresh

    def _is_fresh(self, record: Record, held_out: bool) -> bool:
        newer = held_out or record.offset >= self.trained_until.get((record.topic, record.partition), 0)
        return newer and record.id not in self._seen and not self._learnt_from(record.key)

    def _remember(
        self, record: Record, first: Answer, second: Answer, confidence: tuple[float, float]
    ) -> None:
        bucket = int(record.time_s // self._bucket_s) if self._bucket_s else self.records
        tenant = record.tenant or record.key
        self._unlabelled[record.id] = PairedAnswer(first, second, tenant, record.key, bucket, confidence)
        self._seen[record.id] = None
        self._tenants.append(tenant)
        self.records += 1
        for memory in (self._unlabelled, self._seen, self._counted):
            if len(memory) > REMEMBERED:
                memory.popitem(last=False)

    def on_label(self, label: Label) -> LabelledPair | None:
        """Count one label; None for other records, second labels, and second ones of an entity in its stretch."""
        found = self._unlabelled.pop(label.id, None)
        if found is None or (found.entity, found.bucket) in self._counted:
            return None
        self._counted[found.entity, found.bucket] = None
        judged = LabelledPair(label.label, found.first, found.second, found.tenant, found.confidence)
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
        """Tenant of each record in the window, [N]."""
        return tuple(self._tenants)

    def forget_window(self) -> None:
        """Begin a new window; labels and counts stay."""
        self._logits.clear()
        self._tenants.clear()

    def state_dict(self) -> dict[str, Any]:
        """Everything but the sessions."""
        return {
            "trained_until": self.trained_until,
            "logits": {role: torch.from_numpy(kept) for role, kept in self._logits.items()},
            "tenants": list(self._tenants),
            "unlabelled": {name: astuple(answer) for name, answer in self._unlabelled.items()},
            "seen": list(self._seen),
            "counted": list(self._counted),
            "judged": [astuple(judged) for judged in self.judged],
            "counts": (self.records, self.labels, self.wins, self.losses),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` of the same graphs."""
        self.trained_until = dict(state["trained_until"])
        self._logits = {role: kept.numpy() for role, kept in state["logits"].items()}
        self._tenants = deque(state["tenants"], maxlen=self._window)
        self._unlabelled = OrderedDict((name, PairedAnswer(*f)) for name, f in state["unlabelled"].items())
        self._seen = OrderedDict.fromkeys(state["seen"])
        self._counted = OrderedDict.fromkeys((entity, bucket) for entity, bucket in state["counted"])
        self.judged = deque((LabelledPair(*fields) for fields in state["judged"]), maxlen=REMEMBERED)
        self.records, self.labels, self.wins, self.losses = state["counts"]
