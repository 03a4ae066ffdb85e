"""Rows of a rehearsal, as a table of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tta_agent.core.types import Array


@dataclass(frozen=True, slots=True)
class RehearsedRow:
    """Evidence and true gain of one candidate in one scenario.

    Attributes:
        scene: key of the group of scenarios.
        families: every shift that had a part in it; a family that is left out takes the row with it.
        family, severity, structure: shift and order of arrival of the records.
        kind: `adapted`, `sibling` and `second` (not the first swap), `stale`, `back`, or an injected failure.
        gain: true accuracy of candidate minus serving.
        accuracy: of serving.
        evidence: see `features.py`.
        beside: other estimates, for comparison; not learnt from.
        looks: statistics of plausibility gates, as `gate.option`.
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
    looks: Mapping[str, float] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> RehearsedRow:
        """Row of the values of `plain`."""
        return cls(**{**saved, "families": tuple(saved["families"])})


@dataclass(frozen=True, slots=True)
class EvidenceTable:
    """Table of R rows: evidence [R, F] in the order of `names`, gains [R], and the rows themselves."""

    names: tuple[str, ...]
    evidence: Array
    gains: Array
    rows: Sequence[RehearsedRow]

    @classmethod
    def of(cls, rows: Sequence[RehearsedRow]) -> EvidenceTable:
        """Table of rows, in the order given."""
        names = tuple(sorted(rows[0].evidence)) if rows else ()
        evidence = np.array([[row.evidence[name] for name in names] for row in rows]).reshape(
            len(rows), len(names)
        )
        return cls(names, evidence, np.array([row.gain for row in rows]), rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def families(self) -> list[str]:
        """Shift families of the records, each once, sorted."""
        return sorted({row.family for row in self.rows})

    def of_family(self, family: str) -> Array:
        """Mask [R] of the rows whose records have this shift."""
        return np.array([row.family == family for row in self.rows])

    def without(self, family: str) -> Array:
        """Mask [R] of the rows in which a family has no part, neither in a mixture nor in the copy from elsewhere."""
        return np.array([row.family != family and family not in row.families for row in self.rows])

    def part(self, chosen: Array) -> EvidenceTable:
        """Table of the rows of a mask [R]."""
        return EvidenceTable.of([row for row, yes in zip(self.rows, chosen, strict=True) if yes])
