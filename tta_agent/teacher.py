"""One round on the accelerator: score, select, adapt."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tta_agent import scores
from tta_agent.protocols import Adapter, Selector
from tta_agent.telemetry import Telemetry
from tta_agent.types import Array, Positions, Selection, StepReport, View


@dataclass(frozen=True, slots=True)
class Round:
    """What one round saw and did. Logits [B, C]; entropy in nats, confidence and margin [B]."""

    logits: Array
    entropy: Array
    confidence: Array
    margin: Array
    dropped: Mapping[str, int]
    report: StepReport

    def numbers(self) -> dict[str, float | None]:
        """Means of the batch, the share that was kept, and the loss: for people."""
        means = {name: float(getattr(self, name).mean()) for name in ("entropy", "confidence", "margin")}
        return {**means, "kept": 1 - sum(self.dropped.values()) / len(self.logits), "loss": self.report.loss}


class Teacher:
    """The copy, and who may teach it.

    Args:
        adapter: the copy that learns.
        source: the deployed module, inference mode, for selectors that compare with it.
        selectors: applied one after the other to what the one before kept; weights multiply.
        device: where the copy lives.
        policy: name of the adapter, for telemetry.
    """

    def __init__(
        self,
        adapter: Adapter,
        source: nn.Module,
        selectors: Sequence[Selector],
        device: torch.device,
        telemetry: Telemetry,
        policy: str = "",
    ) -> None:
        self.adapter, self._source, self._selectors, self._device = adapter, source, selectors, device
        self._telemetry, self._policy = telemetry, policy
        self.rounds = 0
        self.learnt = 0  # rounds with a step since the last reset
        self.totals: Counter[str] = Counter()

    def round(self, x: Array) -> Round:
        """One batch [B, ...], from numbers to weights."""
        batch = torch.from_numpy(x).to(self._device)
        with self._telemetry.score():
            logits = self.adapter.forward(batch)
            seen = logits.detach()
            entropy, confidence, margin = (
                score(seen).cpu().numpy() for score in (scores.entropy, scores.confidence, scores.margin)
            )
        with self._telemetry.select() as stage:
            selection = self._select(batch, seen)
            stage.selected(len(selection.index), len(x))
        with self._telemetry.adapt(self._policy) as stage:
            report = self.adapter.step(batch, logits, selection)
            stage.adapted(report)
        self._count(selection, report)
        self._telemetry.scores(entropy, confidence, seen.shape[1])
        return Round(seen.cpu().numpy(), entropy, confidence, margin, dict(selection.dropped), report)

    @torch.no_grad()
    def _select(self, x: Tensor, logits: Tensor) -> Selection:
        index = torch.arange(len(x), device=x.device)
        weight = torch.ones(len(x), device=x.device)
        dropped: Counter[str] = Counter()
        for selector in self._selectors:
            if not len(index):
                break
            here = x[index]
            source_logits = functools.partial(self._source, here)
            chosen = selector.select(View(here, logits[index], self.adapter.predict, source_logits))
            index, weight = index[chosen.index], weight[chosen.index] * chosen.weight
            dropped.update(chosen.dropped)
        return Selection(index, weight, dropped)

    def _count(self, selection: Selection, report: StepReport) -> None:
        self.rounds += 1
        self.learnt = 0 if "nonfinite" in report.diagnostics else self.learnt + bool(report.used)
        outcomes = {
            "kept": len(selection.index),
            **{f"rejected_{k}": n for k, n in selection.dropped.items()},
        }
        for outcome, count in outcomes.items():
            self.totals[outcome] += count
            self._telemetry.samples(outcome, count)

    def history(self, positions: Positions) -> dict[str, Any]:
        """What the copy has learnt from, for the manifest of a candidate."""
        read = {f"{topic}/{partition}": offset for (topic, partition), offset in positions.items()}
        return {
            "policy": self._policy,
            "rounds": self.rounds,
            "records": dict(self.totals),
            "positions": read,
        }

    def reset(self) -> None:
        """Back to the source."""
        self.adapter.reset()
        self.learnt = 0

    def state_dict(self) -> dict[str, Any]:
        """Adapter, counters, and the random state that a bit-equal continuation needs."""
        counts = {"rounds": self.rounds, "learnt": self.learnt, "totals": dict(self.totals)}
        return {"adapter": self.adapter.state_dict(), "random": torch.get_rng_state(), **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.adapter.load_state_dict(state["adapter"])
        torch.set_rng_state(state["random"])
        self.rounds, self.learnt, self.totals = state["rounds"], state["learnt"], Counter(state["totals"])
