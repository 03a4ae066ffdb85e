"""Player of scenarios: the adapter as configured, in each of them, against the model that served before."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tta_agent.adaptation.step import Adaptation
from tta_agent.core.evidence import Evidence
from tta_agent.core.protocols import Gate
from tta_agent.core.task import decide
from tta_agent.core.types import Array
from tta_agent.evaluation.rehearsed.features import features
from tta_agent.evaluation.rehearsed.limits import measured
from tta_agent.evaluation.rehearsed.moved import moved
from tta_agent.evaluation.rehearsed.table import RehearsedRow
from tta_agent.models.loader import DeployedModel
from tta_agent.rehearsal.arrivals import Order, gain, order
from tta_agent.rehearsal.dropout import accuracy as estimate
from tta_agent.rehearsal.dropout import passes
from tta_agent.rehearsal.failures import BREAKS, ModelOutputs
from tta_agent.rehearsal.image_pool import ImagePool, RehearsalAnchor
from tta_agent.rehearsal.sampler import ImageSampler, SampledImages
from tta_agent.rehearsal.scenarios import ScenarioGroup

WINDOW, HELD = 500, 1000  # records of the evidence, and images over which the true gain is taken
ASKED = 50  # inputs of one forward pass: what a core has in its cache
COLLAPSE = (3, 30.0)  # passes over the records, and what the learning rate is multiplied by


@dataclass(frozen=True, slots=True)
class _Scenario:
    """One order of arrival of a group's images, and the source's outputs on them."""

    group: ScenarioGroup
    images: SampledImages
    structure: str
    arrival: Order
    source: ModelOutputs


class Player:
    """Plays groups of scenarios with one adaptation, which is reset between scenarios.

    Args:
        adaptation: adapter, selectors and schedules as in production.
        source: the deployed model.
        pool: images that arrive.
        anchor: labelled anchor set; none of its images is in the pool.
        batch: records of one step.
        window: held-out records of the evidence.
        held: images over which the true gain is taken.
        others: pixels of unknown classes, see `ImageSampler`.
        dropout: share of features dropped for AETTA, which is estimated beside the evidence where above 0.
        gates: by name; plausibility gates among them tell how each candidate looks.
    """

    def __init__(
        self,
        adaptation: Adaptation,
        source: DeployedModel,
        pool: ImagePool,
        anchor: RehearsalAnchor,
        batch: int,
        *,
        window: int = WINDOW,
        held: int = HELD,
        others: Array | None = None,
        dropout: float = 0.0,
        gates: Mapping[str, Gate] | None = None,
    ) -> None:
        self._gates = gates or {}
        self.adaptation, self.source, self.anchor = adaptation, source, anchor
        self.batch, self.window, self.dropout = batch, window, dropout
        self.sampler = ImageSampler(pool, window, max(held, window), others)
        self._source_on_anchor = self._on_anchor(source.module)

    def play(self, group: ScenarioGroup, played: Callable[[], None] = lambda: None) -> list[RehearsedRow]:
        """Rows of all scenarios of a group; `played` is called after each."""
        rows = []
        for row in self._rows(group):
            rows.append(row)
            played()
        return rows

    def _rows(self, group: ScenarioGroup) -> Iterator[RehearsedRow]:
        random = np.random.default_rng(
            [group.seed, zlib.crc32(repr(group.families).encode()), group.severity]
        )
        scenarios = self._scenarios(group, random)
        adapted: dict[str, ModelOutputs] = {}
        for structure in group.structures:
            one = scenarios[structure]
            self.adaptation.reset()
            adapted[structure] = self._learn(one.images.learn[one.arrival.learn], one.images)
            yield self._row(one, "adapted", one.source, adapted[structure])
        first, last = scenarios[group.structures[0]], group.structures[-1]
        own = adapted[first.structure]
        if last != first.structure:
            yield self._row(first, "sibling", adapted[last], own)
        yield from self._from_elsewhere(first, own)
        for kind in group.failures:
            yield self._broken(first, kind, own, random)

    def _scenarios(self, group: ScenarioGroup, random: np.random.Generator) -> dict[str, _Scenario]:
        images = self.sampler.sample(group)
        source = self._outputs(self.source.module, images, self._source_on_anchor)
        return {
            structure: _Scenario(group, images, structure, self._order(structure, images, random), source)
            for structure in dict.fromkeys(("iid", *group.structures))
        }

    def _from_elsewhere(self, one: _Scenario, own: ModelOutputs) -> Iterator[RehearsedRow]:
        """Rows of a copy from another shift: as the candidate, and as the serving model of a second swap."""
        self.adaptation.reset()
        stale = self._learn(self.sampler.elsewhere(one.group), one.images)
        following = self._learn(one.images.learn[one.arrival.learn], one.images)
        also = one.group.elsewhere[:1]
        yield self._row(one, "stale", one.source, stale, also)
        yield self._row(one, "second", stale, following, also)
        yield self._row(one, "back", own, stale, also)

    def _broken(
        self, one: _Scenario, kind: str, own: ModelOutputs, random: np.random.Generator
    ) -> RehearsedRow:
        if kind == "collapse":
            return self._row(one, kind, one.source, self._collapsed(one.images))
        whose, broken = BREAKS[kind]
        return self._row(one, kind, one.source, broken(own if whose == "candidate" else one.source, random))

    def _collapsed(self, images: SampledImages) -> ModelOutputs:
        """Outputs after class by class, again and again, at a rate that no one would choose."""
        passes, factor = COLLAPSE
        self.adaptation.reset()
        optimizer = getattr(
            getattr(self.adaptation.adapter, "inner", self.adaptation.adapter), "optimizer", None
        )
        groups = [] if optimizer is None else optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] *= factor
        rows = np.argsort(images.learn_labels, kind="stable")
        found = self._learn(images.learn[np.tile(rows, passes)], images)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        self.adaptation.reset()
        return found

    def _learn(self, x: Array, images: SampledImages) -> ModelOutputs:
        for start in range(0, len(x) - self.batch // 2, self.batch):
            self.adaptation.round(x[start : start + self.batch])
        module = self.adaptation.adapter.servable()
        return self._outputs(module, images, self._on_anchor(module))

    def _outputs(self, module: nn.Module, images: SampledImages, anchor: Mapping[str, Array]) -> ModelOutputs:
        beside = passes(module, images.held, self.dropout) if self.dropout else None
        return ModelOutputs(
            self.logits(module, images.held), anchor, moved(self.source.module, module), beside
        )

    def _row(
        self,
        one: _Scenario,
        kind: str,
        serving: ModelOutputs,
        candidate: ModelOutputs,
        also: tuple[str, ...] = (),
    ) -> RehearsedRow:
        group, labels, rows, share = one.group, one.images.held_labels, one.arrival.window, one.arrival.share
        pair, source = (serving.held[rows], candidate.held[rows]), one.source.held[rows]
        anchor = self.anchor.compare(serving.anchor, candidate.anchor)
        evidence = features(*pair, source, anchor, candidate.moved)
        seen = Evidence(*pair, 0, 0, 0, 1.0, source=source, proven=serving.held[rows], anchor=anchor)
        before, after = (decide(outputs.held[: len(labels)]) for outputs in (serving, candidate))
        return RehearsedRow(
            group.key, tuple(dict.fromkeys((*group.families, *also))), group.family, group.severity,
            one.structure, kind, gain(before, after, labels, share), 1 + gain(labels, before, labels, share),
            evidence, _beside(serving, candidate, rows), measured(self._gates, seen),
        )  # fmt: skip

    def _order(self, structure: str, images: SampledImages, random: np.random.Generator) -> Order:
        classes = self.source.classes
        return order(structure, images.learn_labels, images.held_labels, classes, self.window, random)

    def _on_anchor(self, module: nn.Module) -> dict[str, Array]:
        return {name: self.logits(module, x) for name, x in self.anchor.views.items()}

    @torch.no_grad()
    def logits(self, module: nn.Module, x: Array) -> Array:
        """Logits [N, C] of a module in inference mode."""
        device = self.source.device
        parts = [module(torch.from_numpy(x[i : i + ASKED]).to(device)).cpu() for i in range(0, len(x), ASKED)]
        return (
            np.asarray(torch.cat(parts).numpy()) if parts else np.empty((0, self.source.classes), np.float32)
        )


def _beside(serving: ModelOutputs, candidate: ModelOutputs, rows: Array) -> dict[str, float]:
    if serving.passes is None or candidate.passes is None:
        return {}
    return {"aetta": estimate(candidate.passes[rows]) - estimate(serving.passes[rows])}
