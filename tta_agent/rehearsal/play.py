"""One scene to rows: the adapter as configured, in each world, against what served before."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from tta_agent.adaptation.step import Adaptation
from tta_agent.core.types import Array
from tta_agent.evaluation.rehearsed.features import features
from tta_agent.evaluation.rehearsed.moved import moved
from tta_agent.evaluation.rehearsed.table import RehearsedRow
from tta_agent.models.loader import DeployedModel
from tta_agent.rehearsal.arrivals import Order, gain, order
from tta_agent.rehearsal.dropout import accuracy as estimate
from tta_agent.rehearsal.dropout import passes
from tta_agent.rehearsal.failures import BREAKS, Answers
from tta_agent.rehearsal.pool import Pool, Reference
from tta_agent.rehearsal.stage import Images, Stage
from tta_agent.rehearsal.worlds import Scene

WINDOW, HELD = 500, 1000  # records of the evidence, and images over which the true gain is taken
ASKED = 50  # inputs answered at once: what a core has in its cache
COLLAPSE = (3, 30.0)  # passes over the records, and what the learning rate is multiplied by


class Player:
    """Plays scenes with one teacher, which is reset between worlds.

    Args:
        teacher: adapter, selectors and schedules as in production.
        pool: images that arrive.
        reference: the anchor; none of its images is in the pool.
        batch: records of a round.
        dropout: share of features dropped for AETTA, which is estimated beside where this is above 0.
    """

    def __init__(
        self,
        teacher: Adaptation,
        source: DeployedModel,
        pool: Pool,
        reference: Reference,
        batch: int,
        *,
        window: int = WINDOW,
        held: int = HELD,
        others: Array | None = None,
        dropout: float = 0.0,
    ) -> None:
        self.teacher, self.source, self.reference = teacher, source, reference
        self.batch, self.window, self.dropout = batch, window, dropout
        self.images = Images(pool, window, max(held, window), others)
        self._anchor = self._on_anchor(source.module)

    def play(self, scene: Scene) -> list[RehearsedRow]:
        """All worlds of the scene."""
        return list(self._rows(scene))

    def _rows(self, scene: Scene) -> Iterator[RehearsedRow]:
        random = np.random.default_rng(
            [scene.seed, zlib.crc32(repr(scene.families).encode()), scene.severity]
        )
        stage = self.images.stage(scene)
        source = self._answers(self.source.module, stage, self._anchor)
        orders = {s: self._order(s, stage, random) for s in dict.fromkeys(("iid", *scene.structures))}
        adapted: dict[str, Answers] = {}
        for structure in scene.structures:
            self.teacher.reset()
            adapted[structure] = self._learn(stage.learn[orders[structure].learn], stage)
            yield self._row(
                scene, stage, orders[structure], structure, "adapted", source, adapted[structure], source
            )
        structure, last = scene.structures[0], scene.structures[-1]
        if last != structure:
            pair = adapted[last], adapted[structure]
            yield self._row(scene, stage, orders[structure], structure, "sibling", *pair, source)
        yield from self._from_elsewhere(
            scene, stage, orders[structure], structure, source, adapted[structure]
        )
        for kind in scene.failures:
            yield self._broken(
                scene, stage, orders[structure], structure, kind, source, adapted[structure], random
            )

    def _from_elsewhere(
        self, scene: Scene, stage: Stage, arrival: Order, structure: str, source: Answers, own: Answers
    ) -> Iterator[RehearsedRow]:
        """A copy of another world: as the candidate here, and as what serves while a new one is learnt."""
        self.teacher.reset()
        stale = self._learn(self.images.elsewhere(scene), stage)
        following = self._learn(stage.learn[arrival.learn], stage)
        for kind, serving, candidate in (
            ("stale", source, stale), ("second", stale, following), ("back", own, stale),
        ):  # fmt: skip
            yield self._row(
                scene, stage, arrival, structure, kind, serving, candidate, source, scene.elsewhere[:1]
            )

    def _broken(
        self,
        scene: Scene,
        stage: Stage,
        arrival: Order,
        structure: str,
        kind: str,
        source: Answers,
        own: Answers,
        random: np.random.Generator,
    ) -> RehearsedRow:
        if kind == "collapse":
            return self._row(scene, stage, arrival, structure, kind, source, self._collapsed(stage), source)
        whose, broken = BREAKS[kind]
        candidate = broken(own if whose == "candidate" else source, random)
        return self._row(scene, stage, arrival, structure, kind, source, candidate, source)

    def _collapsed(self, stage: Stage) -> Answers:
        """Class after class, again and again, at a rate that no one would choose."""
        passes, factor = COLLAPSE
        self.teacher.reset()
        optimizer = getattr(getattr(self.teacher.adapter, "inner", self.teacher.adapter), "optimizer", None)
        groups = [] if optimizer is None else optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] *= factor
        rows = np.argsort(stage.learn_labels, kind="stable")
        found = self._learn(stage.learn[np.tile(rows, passes)], stage)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        self.teacher.reset()
        return found

    def _learn(self, x: Array, stage: Stage) -> Answers:
        for start in range(0, len(x) - self.batch // 2, self.batch):
            self.teacher.round(x[start : start + self.batch])
        module = self.teacher.adapter.servable()
        return self._answers(module, stage, self._on_anchor(module))

    def _answers(self, module: nn.Module, stage: Stage, anchor: Mapping[str, Array]) -> Answers:
        beside = passes(module, stage.held, self.dropout) if self.dropout else None
        return Answers(self.ask(module, stage.held), anchor, moved(self.source.module, module), beside)

    def _row(
        self,
        scene: Scene,
        stage: Stage,
        arrival: Order,
        structure: str,
        kind: str,
        serving: Answers,
        candidate: Answers,
        source: Answers,
        also: tuple[str, ...] = (),
    ) -> RehearsedRow:
        labels, rows = stage.held_labels, arrival.window
        seen = features(
            serving.held[rows], candidate.held[rows], source.held[rows],
            self.reference.compare(serving.anchor, candidate.anchor), candidate.moved,
        )  # fmt: skip
        said = [a.held[: len(labels)].argmax(1) for a in (serving, candidate)]
        accuracy = 1 + gain(labels, said[0], labels, arrival.share)
        return RehearsedRow(
            scene.key, tuple(dict.fromkeys((*scene.families, *also))), scene.family, scene.severity, structure, kind,
            gain(said[0], said[1], labels, arrival.share), accuracy, seen,
            _beside(serving, candidate, rows),
        )  # fmt: skip

    def _order(self, structure: str, stage: Stage, random: np.random.Generator) -> Order:
        classes = self.source.classes
        return order(structure, stage.learn_labels, stage.held_labels, classes, self.window, random)

    def _on_anchor(self, module: nn.Module) -> dict[str, Array]:
        return {name: self.ask(module, x) for name, x in self.reference.views.items()}

    @torch.no_grad()
    def ask(self, module: nn.Module, x: Array) -> Array:
        """Logits [N, C] of a module in inference mode."""
        device = self.source.device
        parts = [module(torch.from_numpy(x[i : i + ASKED]).to(device)).cpu() for i in range(0, len(x), ASKED)]
        return (
            np.asarray(torch.cat(parts).numpy()) if parts else np.empty((0, self.source.classes), np.float32)
        )


def _beside(serving: Answers, candidate: Answers, rows: Array) -> dict[str, float]:
    if serving.passes is None or candidate.passes is None:
        return {}
    return {"aetta": estimate(candidate.passes[rows]) - estimate(serving.passes[rows])}
