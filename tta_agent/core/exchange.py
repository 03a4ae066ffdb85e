"""Requests and responses that a server logs apart: values on their way to being joined by id."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tta_agent.core.types import Array, Label, Record

JoinKey: TypeAlias = tuple[str, str]  # source, or format, and id of the request


@dataclass(frozen=True, slots=True)
class ServedAnswers:
    """Answers of one request of N samples.

    Attributes:
        outputs: raw outputs [N, C] float32; None where only classes were logged.
        classes: classes [N] where only they were logged, else None.
        best: number of classes that are named for each sample; 0 where the outputs of all are there.
    """

    outputs: Array | None = None
    classes: Array | None = None
    best: int = 0


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request whose response is logged apart; its samples have no answer yet."""

    join: JoinKey
    records: tuple[Record, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(record.nbytes for record in self.records)


@dataclass(frozen=True, slots=True)
class LoggedResponse:
    """A response whose request is logged apart.

    Attributes:
        read: its answers to a number of samples; raises DecodeError where they do not fit.
        version: number of the version that answered, or None.
        version_name: its name, where that is no number.
        nbytes: bytes in memory.
    """

    join: JoinKey
    read: Callable[[int], ServedAnswers]
    version: int | None
    version_name: str
    nbytes: int


Item: TypeAlias = Record | Label | LoggedRequest | LoggedResponse
