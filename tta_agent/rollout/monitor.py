"""Monitor of the served version: the only place from which versions are taken back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tta_agent.core.events import Event
from tta_agent.core.types import GateResult, Label, Version
from tta_agent.evaluation.paired import BatchPredictions
from tta_agent.models.ort_sessions import Session
from tta_agent.registry import trust
from tta_agent.rollout.bake import BakeMonitor
from tta_agent.rollout.deployments import Deployments
from tta_agent.rollout.factory import EvaluationFactory
from tta_agent.rollout.limits import RolloutLimits
from tta_agent.rollout.ports import RollbackHook
from tta_agent.rollout.realignment import Realignment
from tta_agent.rollout.regimes import RegimeFollower
from tta_agent.serving.deployment import ServedModel

log = logging.getLogger(__name__)


class ServingMonitor:
    """One version in service against its rollback target.

    Args:
        limits: are told of roll-backs and of versions that have lasted.
        hook: asked while a version bakes, or None.
        every_s: how often the server is asked whether it answers as it should.
        clock: seconds since the epoch, as the stream counts them.
    """

    def __init__(
        self,
        served: ServedModel,
        factory: EvaluationFactory,
        deployments: Deployments,
        regimes: RegimeFollower,
        limits: RolloutLimits,
        *,
        hook: RollbackHook | None = None,
        every_s: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._served, self._factory, self._deployments, self._regimes = served, factory, deployments, regimes
        self._limits, self._hook, self._every_s, self._clock = limits, hook, every_s, clock
        self._realignment = Realignment(served, every_s, clock)
        self._checked_s = clock()

    @property
    def bake(self) -> BakeMonitor | None:
        """Bake of the served version; None for the source, and for a version of another party."""
        return self._deployments.monitor(self._served.version.number)

    def rollback_session(self) -> Session | None:
        """Session of the rollback target while the served version bakes."""
        bake = self.bake
        return bake.rollback_session if bake and bake.baking else None

    def begin(self, baseline: Version, expires_s: float | None) -> None:
        """Begin a bake after a swap; `baseline` is the rollback target; the proof holds for the present regime."""
        bake = self._factory.bake_monitor(self._served.version, baseline, expires_s)
        self._deployments.add(bake, self._regimes.regime())

    def check_server(self) -> bool:
        """Follow an alias moved by another party, ask the server for its health; whether adaptation starts over."""
        again = self._served.overruled()
        if again:
            self._deployments.clear()
            self._limits.trip(self._clock())
        if self._clock() - self._checked_s >= self._every_s:
            self._checked_s = self._clock()
            again = self._ask_around() or again
        return again

    def _ask_around(self) -> bool:
        """The server's own health, and the webhook."""
        bake, found = self.bake, self._realignment.check() or self._asked_for()
        return found is not None and bake is not None and self.take_back(bake.baseline, found, "agent")

    def _asked_for(self) -> GateResult | None:
        """Whether the webhook wants a version gone that still bakes."""
        bake = self.bake
        if bake is None or not bake.baking or self._hook is None:
            return None
        if not self._hook.rollback({"version": bake.version.number, "baseline": bake.baseline.number}):
            return None
        return GateResult("webhook", 1.0, 0.0, "fail", "the webhook asked for it")

    def on_records(self, held: BatchPredictions, taught: BatchPredictions, labels: Sequence[Label]) -> bool:
        """Held-out records, those that teach, then labels; whether a version was taken back: all starts over."""
        bake, found = self.bake, None
        if bake is not None:
            found = bake.on_records(held, self._clock())
            bake.on_training_records(taught)
        wrong = self._deployments.on_labels(labels)
        found = found or wrong.pop(self._served.version.number, None)
        for number, result in wrong.items():
            self._withdraw(number, result)
        if bake is not None and found:
            return self.take_back(bake.baseline, found, "agent")
        if bake is not None and bake.settles():
            self._limits.settled()
            self._served.say(Event.CONFIRMED, version=bake.version.number, records=bake.pairs.records)
        return bool(wrong)

    def _withdraw(self, number: int, result: GateResult) -> None:
        """Withdraw a version that labels have found wrong while another one serves."""
        self._deployments.drop(number)
        self._served.withdraw(number, result)
        self._limits.trip(self._clock())

    def take_back(self, target: Version, result: GateResult, by: str) -> bool:
        """Put `target` into service for good; whether that could be done."""
        gone = self._served.version.number
        if not self._served.take_back(target, result, by):
            return False
        self._deployments.drop(gone) if by == "agent" else self._deployments.clear()
        wait_s = self._limits.trip(self._clock())
        log.warning(
            "version %d serves again (%s); next candidate in %.0f s", target.number, result.reason, wait_s
        )
        if target.number and self.bake is None:
            self.begin(self._served.source, None)
        return True

    def state_dict(self) -> dict[str, Any]:
        """The bakes, the regimes in which their versions were proven, and the limits."""
        deployed = [(one.monitor.state_dict(), one.regime.blocks.tolist()) for one in self._deployments]
        return {"deployments": deployed, "limits": self._limits.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the bakes; where another version serves, a swap came later, and its bake begins."""
        self._limits.load_state_dict(state["limits"])
        serving, registry = self._served.version, self._served.registry
        for saved, blocks in state["deployments"]:
            if registry.is_withdrawn(saved["number"]):
                continue
            bake = self._factory.bake_monitor(registry.get(saved["number"]), registry.get(saved["baseline"]))
            bake.load_state_dict(saved)
            self._deployments.add(bake, self._regimes.regime(blocks))
        if serving.number and self.bake is None:
            previous = registry.get(trust.rollback_target(registry))
            self.begin(previous, registry.verdict(serving.number).get("expires_s"))
