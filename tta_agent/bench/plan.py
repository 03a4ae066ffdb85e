"""Cells: single measurements, each under a key that names everything its results depend on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch

from tta_agent.bench import digest, peers
from tta_agent.bench.contenders import Contender
from tta_agent.bench.streams import StreamSpec
from tta_agent.bench.tally import HEAD
from tta_agent.core import plugins
from tta_agent.settings.schema import Settings

Kind = Literal["timing", "accuracy", "peer"]
BENCH = ("protocol", "timing", "peers", "streams", "arrivals", "tally", "lagged", "cost")
ENGINE = (
    "tta_agent.adaptation.sliding_window",
    "tta_agent.models.source_data",
)  # what build leads to, which is not followed
# Groups of settings that what is measured here does not depend on; the model counts by its weights.
ELSEWHERE = {"model", "stream", "labels", "gate", "swap", "store", "serve", "policy", "mode"}


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        kind: seconds of a round; a contender on a stream; a peer on a stream.
        contender: measured one; for a peer, its counterpart.
        model: settings of the group `model`.
        stream: images and order of arrival.
        lags: rounds between two snapshots.
        peer: name of the peer, to be timed beside the contender or measured itself.
        limit_s: of a timing.
        key: digest of all of this and of the code, weights and data behind it.
    """

    kind: Kind
    contender: Contender
    model: Mapping[str, Any]
    stream: StreamSpec
    lags: tuple[int, ...] = ()
    peer: str | None = None
    limit_s: float = 0.0
    key: str = ""

    def tags(self) -> dict[str, Any]:
        """Description by field, for people and for grouping."""
        s = self.stream
        return {
            "kind": self.kind, "method": self.contender.name, "protocol": s.protocol, "batch": s.batch,
            "order": s.order, "corruptions": list(s.domains), "images": s.images, "severity": s.severity,
        }  # fmt: skip

    def name(self) -> str:
        """Description in one line, for people."""
        who = f"torch-ttt's {self.peer}" if self.kind == "peer" else self.contender.name
        domains = self.stream.domains
        what = domains[0] if len(domains) == 1 else f"{len(domains)} corruptions"
        return f"{who}, {self.stream.protocol}, {what}, batch {self.stream.batch}, order {self.stream.order}"

    def settings(self, store: Path | None = None) -> Settings:
        """Settings of the agent; methods keep statistics of the source in `store`."""
        return self.contender.settings(self.model, self.stream.protocol, store)


@dataclass(frozen=True)
class BenchPlan:
    """Cells of a run, by kind.

    Attributes:
        model: settings of the group `model`.
        fingerprint: of the model's weights.
        stream: of all cells; protocol, batch and order are filled in.
        lags: rounds between two snapshots.
        orders: number of orders of arrival.
        timing_limit_s: seconds of one timing, once it has enough rounds.
    """

    contenders: Sequence[Contender]
    model: Mapping[str, Any]
    fingerprint: str
    stream: StreamSpec
    protocols: tuple[str, ...]
    batches: tuple[int, ...]
    lags: tuple[int, ...]
    orders: int
    timing_limit_s: float

    def timings(self) -> list[Cell]:
        """Timing cells: every contender at every batch size, on the first corruption."""
        first = dataclasses.replace(self.stream, protocol="reset", corruptions=self.stream.corruptions[:1])
        return [
            self._keyed(
                Cell("timing", who, self.model, dataclasses.replace(first, batch=batch),
                     peer=peer_of(who), limit_s=self.timing_limit_s)
            )
            for batch in self.batches for who in self.contenders
        ]  # fmt: skip

    def accuracies(self, images: Mapping[str, int] | None = None) -> list[Cell]:
        """Accuracy cells: every contender on every stream.

        Args:
            images: number for each corruption by contender, where it is not the same for all.
        """
        streams = list(self._streams())
        return [
            self._keyed(Cell("accuracy", who, self.model, _of(stream, images, who), self.lags))
            for who in self.contenders for stream in streams
        ]  # fmt: skip

    def peers(self, images: Mapping[str, int] | None = None) -> list[Cell]:
        """Peer cells: on the beginning of each stream of protocol reset in its first order."""
        streams = [
            dataclasses.replace(s, take=HEAD)
            for s in self._streams()
            if s.protocol == "reset" and s.order == 0
        ]
        return [
            self._keyed(Cell("peer", who, self.model, _of(stream, images, who), peer=peer))
            for who in self.contenders for stream in streams for peer in (peer_of(who),) if peer
        ]  # fmt: skip

    def _streams(self) -> Iterator[StreamSpec]:
        for protocol in self.protocols:
            for batch in (1,) if protocol == "single" else self.batches:
                for order in range(self.orders):
                    stream = dataclasses.replace(self.stream, protocol=protocol, batch=batch, order=order)
                    each = stream.corruptions if protocol == "reset" else ()
                    yield from (dataclasses.replace(stream, corruptions=(name,)) for name in each)
                    yield from () if each else (stream,)

    def _keyed(self, cell: Cell) -> Cell:
        settings = cell.settings()
        seen = {
            **cell.tags(), "lags": cell.lags, "peer": cell.peer, "pixels": [cell.stream.mean, cell.stream.std],
            "take": cell.stream.take, "given": cell.stream.given,
            "settings": settings.model_dump(mode="json", exclude=ELSEWHERE),
            "device": settings.model.device, "weights": self.fingerprint,
            "data": [digest.data(path) for path in (cell.stream.data, _source_data(settings)) if path],
            "code": digest.code(*_modules(settings)), "torch": torch.__version__,
            "theirs": metadata.version("torch-ttt") if cell.peer else None,
        }  # fmt: skip
        text = json.dumps({k: v for k, v in seen.items() if k != "method"}, sort_keys=True)
        return dataclasses.replace(cell, key=hashlib.sha256(text.encode()).hexdigest()[:24])


def peer_of(contender: Contender) -> str | None:
    """Name of the peer of the same method; presets and files, which may do something else, have none."""
    name = contender.name
    plain = contender.flags == {"adapt": {"method": name}}
    return name if plain and name in peers.names() else None


def _of(stream: StreamSpec, images: Mapping[str, int] | None, who: Contender) -> StreamSpec:
    return dataclasses.replace(stream, images=images[who.name]) if images else stream


def _modules(settings: Settings) -> list[str]:
    adapter = plugins.load("adapters", settings.adapt.method)
    own = (
        getattr(adapter, "selectors", {}) if settings.select.selectors is None else settings.select.selectors
    )
    found = [adapter, *(plugins.load("selectors", name) for name in (*settings.select.screen, *own))]
    found += [plugins.load("schedules", name) for name in settings.schedule.schedules]
    return [*(plugin.__module__ for plugin in found), *ENGINE, *(f"tta_agent.bench.{name}" for name in BENCH)]


def _source_data(settings: Settings) -> Path | None:
    path = settings.model.source_data
    return path if path and path.is_file() else None  # a folder of images is taken at its word
