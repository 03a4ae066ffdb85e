"""KServe's InferenceService: its storageUri is patched, and KServe starts pods of the new version beside the old."""

from __future__ import annotations

from collections.abc import Sequence

from tta_agent.serving.clients.kube import Kind
from tta_agent.serving.clients.storage_uri import Resource, StorageUriDriver


class KserveDriver(StorageUriDriver):
    """A `ServerDriver` over an InferenceService, with any runtime that has a storageUri."""

    KIND = Kind("InferenceService", "serving.kserve.io", "v1beta1", "inferenceservices")
    READY = "Ready"

    @classmethod
    def place(cls, resource: Resource) -> Sequence[str] | None:
        """Of the predictor's `model`, or in older resources of its framework."""
        predictor = (resource.get("spec") or {}).get("predictor") or {}
        found = [name for name, part in predictor.items() if isinstance(part, dict) and "storageUri" in part]
        return ("spec", "predictor", found[0], "storageUri") if found else None

    @classmethod
    def failure(cls, resource: Resource) -> str | None:
        """Its `modelStatus`, where the load has failed."""
        status = (resource.get("status") or {}).get("modelStatus") or {}
        if status.get("transitionStatus") not in ("BlockedByFailedLoad", "InvalidSpec"):
            return None
        info = status.get("lastFailureInfo") or {}
        return str(info.get("message") or info.get("reason") or status["transitionStatus"])
