"""Rollback and promotion by command, with the driver of the settings."""

from __future__ import annotations

import contextlib

from tta_agent.core.errors import RegistryError
from tta_agent.core.types import Version
from tta_agent.models.ort_sessions import open_session
from tta_agent.models.outputs import ModelOutput
from tta_agent.registry.factory import open_registry
from tta_agent.registry.registry import ModelRegistry
from tta_agent.serving.drivers import open_driver
from tta_agent.serving.swap import bring_up, golden
from tta_agent.settings.schema import Settings
from tta_agent.telemetry.event_log import EventLog

COMMAND = "command"


def rollback(settings: Settings, to: int | None) -> int:
    """Roll back to a version: put it into the server and point `serving` at it; a running agent starts over.

    The version that it replaces is marked as taken back, where it is the newer one: no roll-back leads to it again.

    Args:
        to: number of the version; None: the one that served before, or the last proven one where that was taken back.

    Raises:
        RegistryError: there is no such version, nothing served before, or it was never proven.
        SwapError: the server refused; what served before the command serves on.
    """
    registry = open_registry(settings)
    before = registry.aliases().get("serving")
    version = registry.get(_earlier(registry, before) if to is None else to)
    if version.proof == "none":
        raise RegistryError(
            f"version {version.number} was never proved to be better; see `tta-agent versions explain "
            f"{version.number}`, or force it: `tta-agent versions promote {version.number} --force`"
        )
    _bring(settings, registry, version, "rolled back")
    if before is not None and before > version.number:
        registry.take_back(before, f"rolled back to version {version.number}", by=COMMAND)
    EventLog(settings.store.path).event("rollback", version=version.number, before=before, by=COMMAND)
    return version.number


def promote(settings: Settings, number: int, *, force: bool = False) -> int:
    """Promote any version: put it into the server and point `serving` at it; a running agent starts over.

    Args:
        force: also one that was never proven, or that was taken back.

    Raises:
        RegistryError: there is no such version, or it needs `force`.
        SwapError: the server refused; what served before the command serves on.
    """
    registry = open_registry(settings)
    version, before = registry.get(number), registry.aliases().get("serving")
    if not force and (why := _objection(registry, version)):
        raise RegistryError(f"version {number} {why}; --force promotes it all the same")
    _bring(settings, registry, version, "promoted by force" if force else "promoted")
    EventLog(settings.store.path).event("promoted", version=number, before=before, by=COMMAND, force=force)
    return number


def _objection(registry: ModelRegistry, version: Version) -> str | None:
    if gone := registry.withdrawal(version.number):
        return f"was taken back ({gone['reason']})"
    if not registry.verdict(version.number):
        return "is still under test"
    return "was never proved to be better" if version.proof == "none" else None


def _earlier(registry: ModelRegistry, serving: int | None) -> int:
    previous = registry.aliases().get("previous")
    if previous is not None and not registry.is_withdrawn(previous):
        return previous
    if not registry.numbers():
        raise RegistryError(f"nothing to roll back to: {registry.nothing()}")
    proven = registry.last_proven().number if previous is not None else serving
    if proven is None or proven == serving:
        raise RegistryError(
            f"nothing served before version {serving}; name one with --to ({registry.storage.where} has"
            f" {registry.numbers()})"
        )
    return proven


def _bring(settings: Settings, registry: ModelRegistry, version: Version, reason: str) -> None:
    with contextlib.closing(open_driver(settings)) as driver:
        driver.probe()
        session = open_session(version.path, output=ModelOutput(settings.model.output))
        bring_up(driver, version, golden(session, registry.golden_inputs(), version.size))
    if not registry.verdict(version.number):  # so that a running agent does not reject what serves
        registry.conclude(version.number, "forced", "none", [], by=COMMAND)
    registry.serve(version.number, by=COMMAND, reason=reason)
