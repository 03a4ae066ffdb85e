"""Warming of sessions: a first run allocates, and is many times slower than the next ones."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence

import numpy as np

from tta_agent.models.ort_sessions import Session, raw_answer, shapes

_SHAPES, _SAMPLES = 4, 8  # shapes that are remembered, and most samples that a session is warmed with


class Warmth:
    """Sessions that have run, and the latest shapes that were asked for. Thread-safe."""

    def __init__(self) -> None:
        """Start with none."""
        self._warm: weakref.WeakSet[Session] = weakref.WeakSet()
        self._shapes: deque[tuple[int, ...]] = deque(maxlen=_SHAPES)

    def ran(self, session: Session, shape: tuple[int, ...]) -> None:
        """A session has answered samples of this shape [N, ...]."""
        self._warm.add(session)
        if shape not in self._shapes:
            self._shapes.append(shape)

    def warm(self, session: Session) -> None:
        """Run a session once on each of the latest shapes, unless it has run.

        Raises:
            GraphError: it fails.
        """
        if session not in self._warm:
            warm(session, list(self._shapes))
            self._warm.add(session)


def warm(session: Session, latest: Sequence[tuple[int, ...]] = ()) -> None:
    """Run a session on zeros of these shapes; without any, on one sample where the model takes one size only."""
    sample, _ = shapes(session)
    fixed = tuple(n for n in sample if n is not None)
    for samples, *rest in latest or ([(1, *fixed)] if len(fixed) == len(sample) else []):
        raw_answer(session, np.zeros((min(samples, _SAMPLES), *rest), np.float32))
