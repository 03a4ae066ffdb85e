"""One measurement: a contender on a stream, online and as served."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tta_agent.assembly import build
from tta_agent.bench.contenders import WINDOW
from tta_agent.bench.cost import Counter
from tta_agent.bench.lagged import Lagged, classes
from tta_agent.bench.streams import Stream, kept
from tta_agent.bench.tally import Tally, numbers
from tta_agent.core import plugins
from tta_agent.core.task import decide
from tta_agent.core.types import Array
from tta_agent.models.loader import DeployedModel
from tta_agent.settings.schema import Settings
from tta_agent.telemetry.facade import Telemetry

CHUNK = 200  # images of one forward of the source
Tick = Callable[[int], None]


class ContenderRun:
    """Contender that adapts to a stream and answers its batches.

    Args:
        settings: of the contender.
        source: the deployed model; not changed.

    Raises:
        CannotAdapt: the method has nothing to adapt in this model.
    """

    def __init__(self, settings: Settings, source: DeployedModel) -> None:
        self.adaptation = build.make_adaptation(settings, source, Telemetry.off())
        self._device = source.device
        self._after = getattr(plugins.load("adapters", settings.adapt.method), "answers_after_step", False)

    def answer(self, x: Array) -> Array:
        """Adapt to a batch; online logits [B, C] of before the step or, if the method says so, of after it."""
        done = self.adaptation.round(x)
        if not self._after:
            return done.logits
        return np.asarray(self.adaptation.adapter.predict(torch.from_numpy(x).to(self._device)).cpu().numpy())

    def servable(self) -> nn.Module:
        """Frozen copy that would serve now."""
        return self.adaptation.adapter.servable()


def own_copy(source: DeployedModel) -> DeployedModel:
    """Deep copy of the source, which may be hooked or adapted in place."""
    return dataclasses.replace(source, module=copy.deepcopy(source.module))


def measure(
    settings: Settings, source: DeployedModel, stream: Stream, lags: Sequence[int], cache: Path, tick: Tick
) -> dict[str, Any]:
    """Measure accuracies and passes of a contender over the stream once.

    Args:
        settings: of the contender.
        source: the deployed model; it is copied.
        stream: batches in order of arrival.
        lags: rounds between two snapshots.
        cache: folder for the source's answers.
        tick: called with the number of records after each batch.

    Raises:
        CannotAdapt: the method has nothing to adapt in this model.
    """
    torch.manual_seed(stream.spec.order)
    hooked = own_copy(source)
    counter = Counter(hooked.module, source.classes)
    contender = ContenderRun(settings, hooked)
    unit = WINDOW if stream.spec.protocol == "single" else 1  # a window of single images counts as a round
    lagged = Lagged([lag * unit for lag in lags], lambda module, x: classes(module, x, source.device))
    tally = Tally()
    for batch in stream.batches():
        lagged.serve(batch.x)
        with counter.counting() as passes:
            logits = contender.answer(batch.x)
        lagged.learnt(contender.servable)
        tally.add(batch, decide(logits), passes.forwards, passes.backwards)
        tick(len(batch.labels))
    served = {lag: lagged.answers()[lag * unit] for lag in lags}
    found = numbers(stream, tally, source_answers(source, stream, cache), served)
    totals = contender.adaptation.totals
    return {**found, "taught": totals["kept"] / len(stream), "resets": totals["resets"]}


def source_answers(source: DeployedModel, stream: Stream, cache: Path) -> list[Array]:
    """Classes that the frozen model predicts for every image, [N] by domain; cached for all methods."""
    weights = build.fingerprint(source.module)

    def one(domain: int) -> Array:
        seen = f"{weights} {stream.digest(domain)} {stream.spec.mean} {stream.spec.std}"
        path = cache / f"{hashlib.sha256(seen.encode()).hexdigest()[:16]}-answers.npy"
        return kept(path, lambda: _answers(source, stream, domain))

    return [one(domain) for domain in range(len(stream.spec.domains))]


def _answers(source: DeployedModel, stream: Stream, domain: int) -> Array:
    images = np.arange(len(stream.labels))
    parts = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
    gathered = (stream.gather(np.full(len(part), domain), part) for part in parts)
    return np.concatenate([classes(source.module, x, source.device) for x in gathered])
