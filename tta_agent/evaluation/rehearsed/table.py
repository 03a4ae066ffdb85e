"""Rows as arrays, and who may learn from whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tta_agent.core.types import Array
from tta_agent.rehearsal.play import Row


@dataclass(frozen=True, slots=True)
class Table:
    """R rows: evidence [R, F] in the order of `names`, gains [R], and the rows themselves."""

    names: tuple[str, ...]
    evidence: Array
    gains: Array
    rows: Sequence[Row]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Table:
        """In the order given."""
        names = tuple(sorted(rows[0].evidence)) if rows else ()
        evidence = np.array([[row.evidence[name] for name in names] for row in rows]).reshape(
            len(rows), len(names)
        )
        return cls(names, evidence, np.array([row.gain for row in rows]), rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def families(self) -> list[str]:
        """What arrives, each once, sorted."""
        return sorted({row.family for row in self.rows})

    def of_family(self, family: str) -> Array:
        """Rows [R] in which it is what arrives."""
        return np.array([row.family == family for row in self.rows])

    def without(self, family: str) -> Array:
        """Rows [R] in which it has no part at all, neither in a mixture nor as the copy from elsewhere."""
        return np.array([row.family != family and family not in row.families for row in self.rows])

    def part(self, chosen: Array) -> Table:
        """Some rows [R] bool."""
        return Table.of([row for row, yes in zip(self.rows, chosen, strict=True) if yes])
