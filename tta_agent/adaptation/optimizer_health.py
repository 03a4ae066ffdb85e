"""Health of the optimiser: running averages of loss and gradient, for the gate `health`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tta_agent.core.types import StepReport

MOMENTUM = 0.1


class OptimizerHealth:
    """Running averages since the last reset.

    `loss` and `gradient` are exponential averages, `gradient_peak` is the largest norm so far, `nonfinite` counts
    steps that were given up, `rounds` those that were taken. Methods that report no gradient have none here.
    """

    def __init__(self) -> None:
        self.numbers: dict[str, float] = {"rounds": 0.0, "nonfinite": 0.0}

    def take(self, report: StepReport) -> None:
        """Take in the report of one round."""
        gradient = report.diagnostics.get("gradient")
        self.numbers["nonfinite"] += bool(report.diagnostics.get("nonfinite"))
        self.numbers["rounds"] += bool(report.used)
        for name, value in (("loss", report.loss), ("gradient", gradient)):
            if value is not None:
                self.numbers[name] = value + (1 - MOMENTUM) * (self.numbers.get(name, value) - value)
        if gradient is not None:
            self.numbers["gradient_peak"] = max(gradient, self.numbers.get("gradient_peak", 0.0))

    def reset(self) -> None:
        """Start over with the copy; the count of steps that were given up stays."""
        self.numbers = {"rounds": 0.0, "nonfinite": self.numbers["nonfinite"]}

    def state_dict(self) -> dict[str, Any]:
        """Averages and counts by name."""
        return dict(self.numbers)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.numbers = dict(state)
