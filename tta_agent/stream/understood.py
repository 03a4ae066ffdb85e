"""Summary of records as they were understood: format, inputs, answers, versions; in one line of the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tta_agent.core.types import FOREIGN, Record
from tta_agent.models.outputs import are_probabilities


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """Records as they were understood.

    Attributes:
        formats: names of the wire formats.
        inputs: datatypes and layouts on the wire.
        shapes: of a sample.
        answers: their kind.
        versions: that answered; names where they are no numbers.
        records: number of samples looked at.
    """

    formats: tuple[str, ...]
    inputs: tuple[str, ...]
    shapes: tuple[str, ...]
    answers: str
    versions: tuple[str, ...]
    records: int

    def line(self, prepared: str = "") -> str:
        """One line for the log.

        Args:
            prepared: preparation of the inputs, where it is known.
        """
        inputs = f"inputs {', '.join(self.inputs) or 'of unknown type'} {', '.join(self.shapes)}"
        taken = f" taken as {prepared}" if prepared else ""
        versions = f"; versions {', '.join(self.versions)}" if self.versions else "; no version is logged"
        read = ", ".join(self.formats) or "a format of its own"
        return f"read as {read}: {inputs}{taken}; answers: {self.answers}{versions}"


def summarise(records: Sequence[Record], formats: Iterable[str]) -> StreamSummary:
    """Summary of records whose answers are still raw."""
    return StreamSummary(
        tuple(formats),
        _most([record.form for record in records if record.form]),
        _most([str(list(record.x.shape)) for record in records]),
        answers_of(records),
        _most([_version(record) for record in records if record.version is not None or record.version_name]),
        len(records),
    )


def answers_of(records: Sequence[Record]) -> str:
    """Kind of the answers in words."""
    served = [record.served.ravel() for record in records if record.served is not None]
    if not served and any(record.named is not None for record in records):
        return "the class alone (the rest is computed from the source)"
    if not served:
        return "none (they are computed from the source)"
    sizes = {len(one) for one in served}
    size = ", ".join(map(str, sorted(sizes)))
    if len(sizes) == 1 and sizes != {1} and are_probabilities(np.stack(served)):
        return f"probabilities [{size}]"
    return f"logits or scores [{size}]" if sizes != {1} else "one value"


def _version(record: Record) -> str:
    if record.version_name:
        known = record.version not in (None, FOREIGN)
        return (
            f"{record.version_name} (version {record.version})"
            if known
            else f"{record.version_name} (foreign)"
        )
    return "foreign" if record.version == FOREIGN else str(record.version)


def _most(values: Sequence[str]) -> tuple[str, ...]:
    """Different values, the most frequent first, five at most."""
    return tuple(value for value, _ in Counter(values).most_common(5))
