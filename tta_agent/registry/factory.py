"""Settings to the registry of their versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tta_agent.registry.registry import ModelRegistry

if TYPE_CHECKING:
    from tta_agent.settings.schema import Settings


def open_ledger(settings: Settings) -> ModelRegistry:
    """The ledger that the settings name; each candidate's manifest says under which settings it came to be."""
    where = settings.store.versions or settings.store.path / "versions"
    return ModelRegistry(where, settings.store.path / "cache", stamp=provenance(settings))


def provenance(settings: Settings) -> dict[str, Any]:
    """The settings that decide what a candidate is and whether it is taken; no addresses, no secrets."""
    groups = {"mode", "policy", "adapt", "select", "schedule", "labels", "gate", "watch"}
    return {"settings": settings.model_dump(mode="json", include=groups)}
