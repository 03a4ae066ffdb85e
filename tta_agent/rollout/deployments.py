"""The versions that serve, each on records like those of its proof; the source on all others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tta_agent.core.drift import BlockReport, Regime
from tta_agent.core.types import Array, GateResult, Label
from tta_agent.rollout.bake import BakeMonitor

LATEST = 16  # blocks that a regime is compared with, at most
FITTING, PATIENCE = 8, 256  # blocks that must fit before a version comes back: at first, and at most
SHORT = (
    64  # blocks: after a shorter stay twice as many must fit: regimes in quick turns cost ever fewer swaps
)
MOST = 3  # versions that are remembered: each keeps two graphs and the records that may still get a label


@dataclass(frozen=True, slots=True)
class DeployedVersion:
    """A version that has come into service: the monitor of its bake, and the regime where its proof holds."""

    monitor: BakeMonitor
    regime: Regime


class Deployments:
    """The versions that have come into service last, and were not taken back; by number, the newest last."""

    def __init__(self) -> None:
        self._deployed: dict[int, DeployedVersion] = {}
        self._latest: list[Array] = []  # blocks since another version serves
        self._stayed = self._fitting = 0  # blocks for which a version has served, or could have
        self._patience = FITTING

    def __iter__(self) -> Iterator[DeployedVersion]:
        return iter(self._deployed.values())

    def monitor(self, number: int) -> BakeMonitor | None:
        """Of a version, where it is known."""
        return self._deployed[number].monitor if number in self._deployed else None

    def add(self, monitor: BakeMonitor, regime: Regime) -> None:
        """A version has come into service; its proof holds in this regime."""
        self._deployed[monitor.version.number] = DeployedVersion(monitor, regime)
        self.switched()
        for number in list(self._deployed)[:-MOST]:
            del self._deployed[number]

    def drop(self, number: int) -> None:
        """Forget a version that must not serve again."""
        self._deployed.pop(number, None)

    def clear(self) -> None:
        """Forget all versions: another party decides what serves."""
        self._deployed.clear()

    def on_labels(self, labels: Sequence[Label]) -> dict[int, GateResult]:
        """Count late labels for every version; by number, the reason to take it back, whether it serves or not."""
        found: dict[int, GateResult] = {}
        for label in labels:
            for number, deployed in self._deployed.items():
                if result := deployed.monitor.on_label(label):
                    found.setdefault(number, result)
        return found

    def on_block(self, serving: int, report: BlockReport) -> tuple[int, GateResult] | None:
        """One block of records; the version that should serve now and the reason, where it is another one."""
        self._latest = [*self._latest, report.block][-LATEST:]
        latest = np.stack(self._latest)
        return self._leave(serving, latest) if serving else self._return(latest)

    def switched(self, *, left: bool = False) -> None:
        """Another version serves now; `left` where the source has taken over."""
        if left:
            self._patience = FITTING if self._stayed >= SHORT else min(2 * self._patience, PATIENCE)
        self._latest = []
        self._stayed = self._fitting = 0

    def _leave(self, serving: int, latest: Array) -> tuple[int, GateResult] | None:
        deployed = self._deployed.get(serving)
        if deployed is None:
            return None
        self._stayed += 1
        regime = deployed.regime
        if far := regime.left_by(latest):
            reason = f"records are of another kind than those that version {serving} was proven on"
            told = f"{reason}: {far:.1f} standard errors, {regime.bound:g} at most"
            return 0, GateResult("domain", far, regime.bound, "fail", told)
        regime.follow(latest)
        return None

    def _return(self, latest: Array) -> tuple[int, GateResult] | None:
        fitting = next((n for n, d in reversed(self._deployed.items()) if d.regime.fits(latest)), None)
        self._fitting = 0 if fitting is None else self._fitting + 1
        if fitting is None or self._fitting + FITTING - 1 < self._patience:
            return None
        regime = self._deployed[fitting].regime
        value = regime.distance(latest[-FITTING:])
        reason = f"records are again of the kind that version {fitting} was proven on"
        return fitting, GateResult(
            "domain", value, regime.bound, "pass", f"{reason}: {value:.1f} standard errors"
        )
