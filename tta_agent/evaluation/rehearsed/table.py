"""Rows as arrays, and who may learn from whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tta_agent.core.types import Array


@dataclass(frozen=True, slots=True)
class RehearsedRow:
    """One candidate in one world.

    Attributes:
        scene: key of its scene.
        families: every shift that had a part in it; whoever leaves one out leaves this row out.
        family, severity, structure: of what arrives.
        kind: `adapted`, `sibling` and `second` (not the first swap), `stale`, `back`, or an injected failure.
        gain: true accuracy of candidate minus serving.
        accuracy: of serving.
        evidence: see `features.py`.
        beside: estimates that are compared, but not learnt from.
    """

    scene: str
    families: tuple[str, ...]
    family: str
    severity: int
    structure: str
    kind: str
    gain: float
    accuracy: float
    evidence: Mapping[str, float]
    beside: Mapping[str, float] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> RehearsedRow:
        """From `plain()`."""
        return cls(**{**saved, "families": tuple(saved["families"])})


@dataclass(frozen=True, slots=True)
class Table:
    """R rows: evidence [R, F] in the order of `names`, gains [R], and the rows themselves."""

    names: tuple[str, ...]
    evidence: Array
    gains: Array
    rows: Sequence[RehearsedRow]

    @classmethod
    def of(cls, rows: Sequence[RehearsedRow]) -> Table:
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
