"""Order of the steps of a swap."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from tta_agent.core.errors import SwapError
from tta_agent.core.protocols import ServerDriver
from tta_agent.core.types import Array, Golden, Version
from tta_agent.models.ort_sessions import Session, raw_answer

GOLDEN = 2  # inputs
LARGE_BYTES = 64 << 20  # of a graph from which on one input has to do: a swap waits for each answer


def golden(session: Session, inputs: Array, graph_bytes: int = 0) -> Golden:
    """Golden batch: the first fixed inputs, which pass through every weight, and a version's answers as served.

    Args:
        graph_bytes: size of the graph.
    """
    few = inputs[: 1 if graph_bytes >= LARGE_BYTES else GOLDEN]
    return Golden(few, raw_answer(session, few))


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
