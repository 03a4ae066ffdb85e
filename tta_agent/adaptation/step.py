"""One round on the accelerator: score, select, adapt, schedules."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tta_agent.adaptation.class_runs import ClassRuns
from tta_agent.adaptation.optimizer_health import OptimizerHealth
from tta_agent.adaptation.reference import ReferenceModel
from tta_agent.adaptation.result import StepResult as StepResult
from tta_agent.adaptation.result import interleaved, joined, scored
from tta_agent.adaptation.screen import Screen
from tta_agent.core import task
from tta_agent.core.protocols import Adapter, InputSelector, Schedule, Selector, Stateful, StreamAveraging
from tta_agent.core.types import Array, Moment, Positions, Selection, StepReport, View
from tta_agent.models.device import Accelerator, Room
from tta_agent.scoring.sample_scores import all_finite
from tta_agent.telemetry.facade import Telemetry

log = logging.getLogger(__name__)
UNSETTLED = 0.1  # share of the source in averages, above which a few classes may have made them
GUARDED = ("nonfinite", "skipped")  # diagnostics of a step that was not taken


class Adaptation:
    """The adapting copy with its selectors and schedules.

    Args:
        adapter: the copy that learns.
        source: the deployed module, inference mode, on the device.
        selectors: applied one after the other to what the one before kept; weights multiply.
        schedules: asked after every round; one that says so resets everything.
        accelerator: device of the copy.
        policy: name of the adapter, for the version's history.
    """

    def __init__(
        self,
        adapter: Adapter,
        source: nn.Module,
        selectors: Sequence[Selector],
        accelerator: Accelerator,
        telemetry: Telemetry,
        policy: str = "",
        schedules: Sequence[Schedule] = (),
    ) -> None:
        self.adapter, self._schedules = adapter, schedules
        self._screen = Screen([one for one in selectors if isinstance(one, InputSelector)])
        self._selectors = [one for one in selectors if not isinstance(one, InputSelector)]
        self.accelerator, self._original, self._room = accelerator, ReferenceModel(source), Room()
        self._telemetry, self._policy = telemetry, policy
        self.rounds = 0
        self.learnt = 0  # rounds with a step since the last reset
        self.totals: Counter[str] = Counter()
        self.health = OptimizerHealth()
        self._runs = ClassRuns()

    def round(self, x: Array, served: Array | None = None) -> StepResult:
        """Score, select and adapt on one batch [B, ...].

        Args:
            served: the source's answers [B, C] as far as they are known (other rows NaN).
        """
        with self.accelerator.working():
            batch = self.accelerator.put(x)
            known = None if served is None else torch.from_numpy(served).to(batch.device)
            kept, dropped = self._screen.select(batch)
            whole = not dropped.total()
            done = self._fitting(batch, known) if whole else self._screened(batch, known, kept, dropped)
        self.rounds += 1
        self._runs.observe(task.tallies(done.logits))
        self._telemetry.scores(done.entropy, done.confidence, done.logits.shape[1])
        return done

    def leave_out(self, records: int, reason: str) -> None:
        """Count records that are neither scored nor learnt from."""
        self._tally({reason: records})

    def settled(self) -> bool:
        """Whether what the adapter averages is that of the stream; where classes come in runs, it may be of a few."""
        adapter = self.adapter
        if not (isinstance(adapter, StreamAveraging) and self.in_runs()):
            return True
        return adapter.source_share() < UNSETTLED

    def in_runs(self) -> bool:
        """Whether classes come in runs, as the answers tell."""
        return self._runs.found()

    def plausible(self, x: Array) -> Array:
        """Which of the inputs [B, ...] would take part in a round, [B]; nothing is remembered."""
        return np.asarray(self._screen.look(torch.from_numpy(x)))

    def _screened(self, x: Tensor, served: Tensor | None, kept: Tensor, dropped: Counter[str]) -> StepResult:
        """A round of those that are kept; the deployed model answers the others, each alone."""
        index, rest = kept.nonzero().flatten(), (~kept).nonzero().flatten()
        self._tally({f"rejected_{reason}": n for reason, n in dropped.items()})
        parts = torch.split(rest, self._room.fit(len(rest)))
        answers = [self._original.logits(x[part], None if served is None else served[part]) for part in parts]
        outside = StepResult(*scored(torch.cat(answers).float()), dropped, StepReport(len(rest), 0, None))
        if not len(index):
            return outside
        inside = self._fitting(x[index], None if served is None else served[index])
        return interleaved(inside, outside, np.asarray(kept.cpu()))

    def _fitting(self, x: Tensor, served: Tensor | None) -> StepResult:
        """The batch in pieces that fit into memory; a piece that does not is tried again, halved."""
        done: list[StepResult] = []
        start = 0
        while start < len(x):
            here = slice(start, start + self._room.fit(len(x) - start))
            try:
                done.append(self._piece(x[here], None if served is None else served[here]))
                start = here.stop
            except torch.OutOfMemoryError:
                if x.is_cuda:
                    torch.cuda.empty_cache()
                self._room.shrink(here.stop - start)
        return done[0] if len(done) == 1 else joined(done)

    def _piece(self, x: Tensor, served: Tensor | None) -> StepResult:
        with self._telemetry.score():
            logits = self.adapter.forward(x) if self._room.learns else self.adapter.predict(x)
            seen = logits.detach().float()
            scores = scored(seen)
        if not self._room.learns:
            report = StepReport(len(x), 0, None, {"paused": 1.0})
            return StepResult(*scores, {"paused": len(x)}, report)
        with self._telemetry.select() as stage:
            selection = self._select(x, seen, served)
            stage.selected(len(selection.index), len(x))
        with self._telemetry.adapt() as stage:
            report = self.adapter.step(x, logits.float(), selection)
            stage.adapted(report)
        self._count(selection, report)
        self._after(Moment(seen, report, self.adapter.moved()) if self._schedules else None)
        return StepResult(*scores, dict(selection.dropped), report)

    @torch.no_grad()
    def _select(self, x: Tensor, logits: Tensor, served: Tensor | None) -> Selection:
        index = torch.arange(len(x), device=x.device)
        weight = torch.ones(len(x), device=x.device)
        dropped: Counter[str] = Counter()
        if not all_finite(logits):
            return Selection(index, weight)  # the adapter's guard finds out why
        whole = functools.cache(lambda: self._original.batch_logits(x))
        for selector in self._selectors:
            if not len(index):
                break
            chosen = selector.select(self._view(x, logits, served, index, whole))
            index, weight = index[chosen.index], weight[chosen.index] * chosen.weight
            dropped.update(chosen.dropped)
        return Selection(index, weight, dropped)

    def _view(
        self, x: Tensor, logits: Tensor, served: Tensor | None, index: Tensor, whole: Callable[[], Tensor]
    ) -> View:
        known = None if served is None else served[index]
        return View(
            x[index],
            logits[index],
            self.adapter.predict,
            lambda: self._original.logits(x[index], known),
            lambda: whole()[index],
        )

    def _after(self, moment: Moment | None) -> None:
        if moment is None:
            return
        asked = [type(schedule).__name__ for schedule in self._schedules if schedule.after(moment)]
        if asked:
            log.info("reset to the source after %d rounds, by %s", self.rounds, ", ".join(asked))
            self.totals["resets"] += 1
            self.reset()

    def _count(self, selection: Selection, report: StepReport) -> None:
        self.health.take(report)
        for found in report.diagnostics.keys() & GUARDED:
            self.totals[f"rounds_{found}"] += 1
        if report.diagnostics.keys() & {"nonfinite", "recovered"}:  # the copy has reset itself
            self.reset()
        else:
            self.learnt += bool(report.used)
        rejected = {f"rejected_{reason}": n for reason, n in selection.dropped.items()}
        self._tally({"kept": len(selection.index), **rejected})

    def _tally(self, outcomes: Mapping[str, int]) -> None:
        for outcome, count in outcomes.items():
            self.totals[outcome] += count
            self._telemetry.samples(outcome, count)

    def history(self, positions: Positions) -> dict[str, Any]:
        """Records, positions and method that the copy has learnt from, for the manifest of a candidate."""
        read = {f"{topic}/{partition}": offset for (topic, partition), offset in positions.items()}
        return {
            "policy": self._policy,
            "rounds": self.rounds,
            "records": dict(self.totals),
            "positions": read,
            "health": {**self.health.numbers, "resets": float(self.totals["resets"])},
        }

    def reset(self) -> None:
        """Reset copy, selectors and schedules to the source."""
        self.adapter.reset()
        for part in (*self._with_memory(), *self._screens()):
            part.reset()
        self.health.reset()
        self.learnt = 0

    def _with_memory(self) -> list[Stateful]:
        return [part for part in (*self._selectors, *self._schedules) if isinstance(part, Stateful)]

    def _screens(self) -> list[Stateful]:
        return [part for part in self._screen.selectors if isinstance(part, Stateful)]

    def state_dict(self) -> dict[str, Any]:
        """Adapter, policies, counters, and the random state that a bit-equal continuation needs."""
        counts = {"rounds": self.rounds, "learnt": self.learnt, "totals": dict(self.totals)}
        memory = {
            "policies": [part.state_dict() for part in self._with_memory()],
            "screen": [part.state_dict() for part in self._screens()],
            "health": self.health.state_dict(),
            "runs": self._runs.state_dict(),
        }
        adapter = self.adapter.state_dict()
        return {"adapter": adapter, "random": torch.get_rng_state(), **memory, **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.adapter.load_state_dict(state["adapter"])
        for part, memory in zip(self._with_memory(), state["policies"], strict=True):
            part.load_state_dict(memory)
        screens = state.get("screen", ())  # older checkpoints have none
        for part, memory in zip(self._screens(), screens, strict=False):
            part.load_state_dict(memory)
        if "runs" in state:  # older checkpoints have none
            self._runs.load_state_dict(state["runs"])
        torch.set_rng_state(state["random"])
        self.health.load_state_dict(state["health"])
        self.rounds, self.learnt, self.totals = state["rounds"], state["learnt"], Counter(state["totals"])
