"""Factory of the registry, by the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tta_agent.registry.registry import ModelRegistry

if TYPE_CHECKING:
    from tta_agent.settings.schema import Settings


def open_registry(settings: Settings) -> ModelRegistry:
    """Open the registry of the settings; the manifest of each candidate holds the settings of its making."""
    where = settings.store.versions or settings.store.path / "versions"
    return ModelRegistry(where, settings.store.path / "cache", stamp=provenance(settings))


def provenance(settings: Settings) -> dict[str, Any]:
    """Settings that shape a candidate and the decision about it; no addresses, no secrets."""
    groups = {"mode", "policy", "adapt", "select", "schedule", "labels", "gate", "watch"}
    return {"settings": settings.model_dump(mode="json", include=groups)}
