"""Batching of records, by size and age."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tta_agent.core.positions import first_offsets
from tta_agent.core.types import Array, Positions, Record


@dataclass(frozen=True)
class Batch:
    """Samples of one round, in order of arrival."""

    records: tuple[Record, ...]

    @cached_property
    def x(self) -> Array:
        """Inputs [B, ...], float32."""
        return np.stack([record.x for record in self.records])

    def served_by_source(self) -> Array | None:
        """Answers [B, C] of the model as deployed, NaN where another version answered; None where it gave none."""
        answers = [r.served if r.version == 0 else None for r in self.records]
        known = [answer for answer in answers if answer is not None]
        if not known:
            return None
        unknown = np.full_like(known[0], np.nan)
        return np.stack([unknown if answer is None else answer for answer in answers])

    @property
    def topic(self) -> str:
        """Topic of the records."""
        return self.records[0].topic


class Batcher:
    """Batcher that collects records until there are `size` of them or the first has waited `max_wait_s`."""

    def __init__(self, size: int, max_wait_s: float) -> None:
        self.size = size
        self.max_wait_s = max_wait_s
        self._waiting: list[Record] = []
        self._since_s = 0.0

    def full(self, records: Iterable[Record], clock: Callable[[], float]) -> list[Batch]:
        """Batches that these records complete."""
        batches = [batch for record in records if (batch := self.add(record, clock())) is not None]
        while len(self._waiting) >= self.size:  # what was put back
            batches.append(self._take())
        return batches

    def add(self, record: Record, now_s: float) -> Batch | None:
        """Add a record; the batch that it completes, or None."""
        if not self._waiting:
            self._since_s = now_s
        self._waiting.append(record)
        return self._take() if len(self._waiting) >= self.size else None

    def due(self, now_s: float) -> Batch | None:
        """An incomplete batch, once its first record has waited long enough; else None."""
        late = self._waiting and now_s - self._since_s >= self.max_wait_s
        return self._take() if late else None

    def put_back(self, batches: Iterable[Batch]) -> None:
        """Take back batches that were not learnt from, in their order; their records wait again, as the first."""
        self._waiting = [*(record for batch in batches for record in batch.records), *self._waiting]

    def waiting(self) -> tuple[Record, ...]:
        """Records that are in no batch yet."""
        return tuple(self._waiting)

    def oldest(self) -> Positions:
        """Offset of the first waiting record of each partition."""
        return first_offsets(self._waiting)

    def _take(self) -> Batch:
        batch, self._waiting = Batch(tuple(self._waiting[: self.size])), self._waiting[self.size :]
        return batch


def held_out(key: str, share: float, salt: bytes = b"") -> bool:
    """Whether an entity is held out for the gates. By hash: the same on every replica and after every restart.

    Args:
        salt: secret of the store, `stream.holdout`, so that no client can choose; empty where there is no store.
    """
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=salt).digest()
    return int.from_bytes(digest, "big") < share * 2**64
