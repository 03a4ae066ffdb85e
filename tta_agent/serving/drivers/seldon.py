"""Model of Seldon Core 2: its storageUri is patched, and the scheduler replaces the loaded model while it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tta_agent.serving.clients.kube import Kind
from tta_agent.serving.clients.storage_uri import Resource, StorageUriDriver, condition


class SeldonDriver(StorageUriDriver):
    """A `ServerDriver` over a Model; TTA_SWAP__URL is the mesh, which routes by a header."""

    KIND = Kind("Model", "mlops.seldon.io", "v1alpha1", "models")
    READY = "ModelReady"

    @classmethod
    def routing(cls, model: str) -> Mapping[str, str]:
        """The mesh's header."""
        return {"seldon-model": model}

    @classmethod
    def place(cls, resource: Resource) -> Sequence[str] | None:
        """Of the specification itself."""
        return ("spec", "storageUri") if "storageUri" in (resource.get("spec") or {}) else None

    @classmethod
    def failure(cls, resource: Resource) -> str | None:
        """State and reason of the condition, where one of them says that something failed."""
        found = condition(resource, cls.READY)
        told = ": ".join(str(found[name]) for name in ("message", "reason") if found.get(name))
        return told if found.get("status") == "False" and "Failed" in told else None
