"""Values while the graph is built: shapes and numbers, from two batches of different size.

Activations are followed without data, as shapes (torch's meta device), weights too. Numbers that come from shapes
and constants are computed for both batches: equal ones are constants, others grow with the batch. So all the
arithmetic on shapes that exporters write down is gone before the first sample comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BATCHES = (2, 3)


@dataclass(frozen=True, slots=True)
class Weight:
    """Initializer of which a value is a view: in its order, or as the transposed matrix."""

    name: str
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """Origin of a value, for recognising layers that were exported in parts."""

    op: str
    inputs: tuple[Value | None, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """One value of the graph.

    Attributes:
        name: as in the graph.
        probes: for each of the two batches, data where it is known, else only its shape.
    """

    name: str
    probes: tuple[Tensor, Tensor]
    weight: Weight | None = None
    made: Made | None = None

    @property
    def known(self) -> bool:
        """Whether the data are known before any sample comes."""
        return not self.probes[0].is_meta

    @property
    def shape(self) -> torch.Size:
        """Shape in the first of the two batches."""
        return self.probes[0].shape

    @property
    def constant(self) -> bool:
        """Whether the data are known, and the same for every batch."""
        return self.known and torch.equal(*self.probes)


@dataclass(frozen=True, slots=True)
class Size:
    """Number that grows with the batch: scale * samples + offset."""

    scale: int
    offset: int

    def of(self, samples: int) -> int:
        """Number for so many samples."""
        product = samples if self.scale == 1 else self.scale * samples
        return product + self.offset if self.offset else product


def numbers(value: Value) -> Any:
    """A known value as a number, or a list of them, each of which may be a Size.

    Raises:
        NotImplementedError: it is not known, or does not grow evenly.
    """
    if not value.known or value.shape != value.probes[1].shape:
        raise NotImplementedError(f"input {value.name!r} must not depend on the data")
    few, more = (probe.flatten().tolist() for probe in value.probes)
    flat = [_number(a, b, value.name) for a, b in zip(few, more, strict=True)]
    return flat if value.probes[0].dim() else flat[0]


def _number(few: Any, more: Any, name: str) -> Any:
    if few == more:
        return few
    if not isinstance(few, int):
        raise NotImplementedError(f"input {name!r} is a fraction that depends on the size of the batch")
    return Size(more - few, few - BATCHES[0] * (more - few))
