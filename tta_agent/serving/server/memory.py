"""Forecast of the memory that a server needs, before it starts."""

from __future__ import annotations

from dataclasses import dataclass

RUNTIME_BYTES = 60 << 20  # ONNX Runtime itself, with its first session
# A session packs weights anew: 1.3 (ViT) to 1.8 (ResNet) times the file, measured on the CPU
SESSION_SHARE = 1.8
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class MemoryForecast:
    """Memory of one server.

    Attributes:
        process_bytes: of the process without a model.
        graph_bytes: file of one version; two are loaded once the first swap has come.
        traffic_bytes: most that requests in flight and the tap hold.
        device: of the sessions.
    """

    process_bytes: int
    graph_bytes: int
    traffic_bytes: int
    device: str = "cpu"

    @property
    def versions_bytes(self) -> float:
        """Of two sessions, on their device."""
        return 2 * SESSION_SHARE * self.graph_bytes

    @property
    def resident_bytes(self) -> float:
        """Of the process, with two versions and no traffic."""
        here = self.versions_bytes if self.device == "cpu" else 0
        return self.process_bytes + RUNTIME_BYTES + here

    def __str__(self) -> str:
        """One line."""
        versions = f"{self.versions_bytes / _MIB:.0f} MiB for two versions of {self.graph_bytes / _MIB:.0f}"
        there = f", {versions} on {self.device}" if self.device != "cpu" else f", {versions} among them"
        return (
            f"memory: about {self.resident_bytes / _MIB:.0f} MiB{there}; up to {self.traffic_bytes / _MIB:.0f} more"
            " for requests in flight (TTA_SERVE__BODY_BYTES) and the tap"
        )
