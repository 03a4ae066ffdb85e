"""The one order in which a version comes into service."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from tta_agent.core.errors import SwapError
from tta_agent.core.protocols import ServerDriver
from tta_agent.core.types import Array, Golden, Version
from tta_agent.models.ort_sessions import Session, raw_answer


def golden(session: Session, inputs: Array) -> Golden:
    """Fixed inputs and the answers, as they are served, that a version must give to them."""
    return Golden(inputs, raw_answer(session, inputs))


def bring_up(
    driver: ServerDriver,
    version: Version,
    expected: Golden,
    verifying: AbstractContextManager[object] | None = None,
) -> None:
    """Publish beside the live version, activate, verify; put the old one back where the last step fails.

    Raises:
        SwapError: and then the version that served before serves on.
    """
    driver.publish(version, expected)
    driver.activate(version)
    try:
        with verifying or nullcontext():
            driver.verify(expected)
    except SwapError:
        driver.rollback()
        raise
