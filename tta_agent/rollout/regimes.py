"""Data regimes: detection of changes, and the version that serves each.

A version serves where it was proven. When records of another regime arrive the source takes over at once, and the
version comes back with records of its own. That is no roll-back: no cool-down, and what was learnt stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from tta_agent.core.drift import Drift, DriftDetector, Regime
from tta_agent.core.events import Event
from tta_agent.core.types import GateResult
from tta_agent.evaluation.paired import BatchPredictions
from tta_agent.rollout.deployments import Deployments
from tta_agent.serving.deployment import ServedModel
from tta_agent.telemetry.facade import Telemetry

LATEST = 32  # records of those that teach, in each poll, that the source is asked about


class RegimeFollower:
    """Drift detection, and the fallback to the source or return of a proven version that follows from it.

    Args:
        detector: of changes in what arrives.
        follows: whether versions change with the regime; False only measures drift.
        allowed: whether a version may come back now (no freeze); falling back to the source always may.
        retry_s: after the server has refused, it is asked again after so long.
        clock: seconds since the epoch, as the stream counts them.
    """

    def __init__(
        self,
        served: ServedModel,
        deployments: Deployments,
        detector: DriftDetector,
        telemetry: Telemetry,
        *,
        follows: bool = True,
        swaps: bool = True,
        allowed: Callable[[], bool] = lambda: True,
        retry_s: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._served, self._deployments, self._detector = served, deployments, detector
        self._telemetry, self._follows, self._swaps = telemetry, follows, swaps
        self._allowed, self._retry_s, self._clock = allowed, retry_s, clock
        self._recent = np.empty((0, 0))
        self._again_s = 0.0
        self._since = 0  # records since the last change

    def observe(self, held: BatchPredictions, taught: BatchPredictions) -> Drift:
        """Ask the source about the records (the latest few of those that teach); the detector's report."""
        source = self._served.session_of(self._served.source)
        some = [batch for batch in (held, taught.latest(LATEST)) if batch.records]
        rows = [self._detector.features(batch.by(source), batch.x) for batch in some]
        drift = self._detector.update(np.concatenate(rows) if rows else np.empty((0, 0)))
        self._tell(drift, sum(map(len, rows)))
        if not self._follows:
            return Drift()
        self._recent = drift.recent
        return drift

    def _tell(self, drift: Drift, records: int) -> None:
        self._since += records
        self._telemetry.drift(drift.distances)
        if drift.ended:
            far = max(drift.distances.values(), default=0.0)
            self._served.say(Event.DRIFT, distance=far, features=dict(drift.distances), records=self._since)
            self._since = 0

    def regime(self, blocks: ArrayLike | None = None) -> Regime:
        """Regime of the present records, or of these blocks [k, d]."""
        return self._detector.regime(self._recent if blocks is None else blocks)

    def follow(self, drift: Drift) -> None:
        """Switch to the version that is proven on such records, block by block."""
        for report in drift.blocks:
            found = self._deployments.on_block(self._served.version.number, report)
            if found and self._swaps and self._clock() >= self._again_s and (not found[0] or self._allowed()):
                self._switch(*found)

    def _switch(self, number: int, result: GateResult) -> None:
        monitor = self._deployments.monitor(number)
        target = monitor.version if monitor else self._served.source
        session = monitor.session if monitor else self._served.session_of(target)
        if self._served.turn_to(target, session, result):
            self._deployments.switched(left=number == 0)
        else:  # a server that refuses is not asked at every block
            self._again_s = self._clock() + self._retry_s
