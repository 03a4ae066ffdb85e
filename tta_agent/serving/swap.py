"""Order of the steps of a swap."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext

from tta_agent.core.errors import SwapError
from tta_agent.core.protocols import ServerDriver
from tta_agent.core.types import Array, Golden, Version
from tta_agent.models.ort_sessions import Session, raw_answer

GOLDEN = 2  # inputs at most
CHEAP_S = (
    0.03  # of one input, which passes through every weight: a swap waits for each answer of a large model
)


def golden(session: Session, inputs: Array) -> Golden:
    """Golden batch: the first fixed inputs, as many as are cheap, and a version's answers as they are served."""
    started_s = time.perf_counter()
    answer = raw_answer(session, inputs[:1])
    if time.perf_counter() - started_s < CHEAP_S:
        return Golden(inputs[:GOLDEN], raw_answer(session, inputs[:GOLDEN]))
    return Golden(inputs[:1], answer)


def bring_up(
    driver: ServerDriver,
    version: Version,
    expected: Golden,
    verifying: AbstractContextManager[object] | None = None,
) -> None:
    """Publish beside the live version, activate, verify; roll back where the last step fails.

    Raises:
        SwapError: a step failed; the version that served before serves on.
    """
    driver.publish(version, expected)
    driver.activate(version)
    try:
        with verifying or nullcontext():
            driver.verify(expected)
    except SwapError:
        driver.rollback()
        raise
