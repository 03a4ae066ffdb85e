"""One candidate under test: both graphs on the same held-out records, and what late labels say about them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tta_agent.evidence import Evidence
from tta_agent.sessions import Session, run
from tta_agent.types import Array, Label, Positions, Record, Version

RECENT = 64  # records on which a newer snapshot is compared with the candidate
FAR = 2.0  # at 1, one in two candidates of a steady demo was given up within 25 s, before small gains could show


class Trial:
    """Paired evaluation of a pinned candidate against the serving graph, in ONNX Runtime.

    Args:
        version: the candidate; it does not change while it is tested.
        serving, candidate: sessions of both graphs.
        alpha: share of the error budget that this candidate may spend.
        born: offsets after the last record that the candidate has learnt from; older records do not count.
        parity: agreement of candidate and torch on fixed inputs.
        size_ratio: bytes of the candidate over bytes of serving.
    """

    def __init__(
        self,
        version: Version,
        serving: Session,
        candidate: Session,
        *,
        alpha: float,
        born: Positions,
        parity: tuple[float, float],
        size_ratio: float,
    ) -> None:
        self.version = version
        self.alpha = alpha
        self.born = dict(born)
        self.parity = parity
        self.size_ratio = size_ratio
        self.serving, self.candidate = serving, candidate
        self._logits: tuple[list[Array], list[Array]] = ([], [])
        self._waiting: dict[str, tuple[int, int]] = {}  # id -> class by serving, class by candidate
        self._seen: set[str] = set()
        self._recent: deque[tuple[Array, int, int]] = deque(maxlen=RECENT)
        self.wins = self.losses = self.labels = 0

    @property
    def records(self) -> int:
        """Held-out records seen so far."""
        return len(self._seen)

    def observe(self, records: Sequence[Record]) -> None:
        """Evaluate both graphs on records that are new to the candidate and to this trial."""
        fresh = {r.id: r for r in records if self._is_fresh(r)}
        if not fresh:
            return
        x = np.stack([record.x for record in fresh.values()])
        pair = [run(session, x) for session in (self.serving, self.candidate)]
        for kept, logits in zip(self._logits, pair, strict=True):
            kept.append(logits)
        for name, serving, candidate in zip(
            fresh, *(logits.argmax(1).tolist() for logits in pair), strict=True
        ):
            self._waiting[name] = (serving, candidate)
            self._recent.append((fresh[name].x, serving, candidate))
        self._seen.update(fresh)

    def _is_fresh(self, record: Record) -> bool:
        newer = record.offset >= self.born.get((record.topic, record.partition), 0)
        return newer and record.id not in self._seen

    def outdated_by(self, newer: Session) -> bool:
        """Whether `newer` stands twice as far from this candidate as this stands from serving, or further.

        Distance is the share of the latest records that are answered otherwise. A copy that only wanders about a
        good place stays nearer, and its candidate keeps the evidence that it has gathered.
        """
        if len(self._recent) < RECENT // 2:
            return False
        x, serving, candidate = (np.stack(column) for column in zip(*self._recent, strict=True))
        moved = (run(newer, x).argmax(1) != candidate).mean()
        return bool(moved > FAR * (candidate != serving).mean())

    def label(self, label: Label) -> bool:
        """Count one label; labels of other records are ignored, as are second labels."""
        pair = self._waiting.pop(label.id, None)
        if pair is None:
            return False
        serving, candidate = (answer == label.label for answer in pair)
        self.labels += 1
        self.wins += candidate and not serving
        self.losses += serving and not candidate
        return True

    def evidence(self) -> Evidence:
        """All that the gates may look at."""
        serving, candidate = (np.concatenate(kept) if kept else np.zeros((0, 1)) for kept in self._logits)
        return Evidence(
            serving, candidate, self.wins, self.losses, self.labels, self.alpha, self.parity, self.size_ratio
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything but the sessions."""
        return {
            "number": self.version.number,
            "alpha": self.alpha,
            "born": self.born,
            "parity": self.parity,
            "size_ratio": self.size_ratio,
            "logits": [torch.from_numpy(np.concatenate(kept)) if kept else None for kept in self._logits],
            "waiting": self._waiting,
            "seen": list(self._seen),
            "counts": (self.wins, self.losses, self.labels),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` of the same candidate."""
        first, second = ([kept.numpy()] if kept is not None else [] for kept in state["logits"])
        self._logits = (first, second)
        self._waiting = dict(state["waiting"])
        self._seen = set(state["seen"])
        self.wins, self.losses, self.labels = state["counts"]
