"""Streams of the benchmark: images corrupted once and cached, dealt out in batches."""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from tta_agent import corruptions
from tta_agent.bench import subjects
from tta_agent.bench.arrivals import PROTOCOLS, UNKNOWN, UNKNOWN_SHARE, Deal
from tta_agent.core.atomic_files import write_atomic
from tta_agent.core.errors import ConfigError
from tta_agent.core.types import Array
from tta_agent.samples import dataset as images

CLEAN = "clean"
CHUNK = 500  # images corrupted at once: the first n of a file look the same, however many are asked for


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """Specification of a stream.

    Attributes:
        data: .npz file of the test images.
        protocol: of `arrivals.PROTOCOLS`.
        corruptions: of `corruptions.NAMES`, or with `given` domains that the file names; ignored by `clean`.
        given: whether the images are taken as they are, each in the domain that the file names.
        severity: 1 to 5.
        images: number for each corruption, from the beginning of the file.
        batch: records of one round.
        order: seed of the order of arrival; the pixels do not depend on it.
        take: number of records after which batches end; None for all.
        mean, std: the model takes (x - mean) / std, x in [0, 1]; one number, or one a channel.
    """

    data: Path
    protocol: str
    corruptions: tuple[str, ...]
    severity: int = 5
    images: int = 2000
    batch: int = 100
    order: int = 0
    take: int | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    given: bool = False

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains that the stream goes through."""
        return (CLEAN,) if self.protocol == "clean" else self.corruptions


@dataclass(frozen=True, slots=True)
class LabelledBatch:
    """Inputs x [B, ...] as the model takes them; labels (-1: unknown class), domains and images, each [B]."""

    x: Array
    labels: Array
    domains: Array
    images: Array


class Stream:
    """Stream of labelled batches in order of arrival, the same ones each time.

    Args:
        spec: data, protocol and batch size.
        cache: folder in which corrupted images are kept.

    Raises:
        ConfigError: the file or the number of images does not fit.
    """

    def __init__(self, spec: StreamSpec, cache: Path) -> None:
        self.spec, self._cache = spec, cache
        self.pool, self.labels, members = _given(spec) if spec.given else _pool(spec)
        deal = Deal(spec.domains, self.labels, spec.batch, spec.order, members)
        self.segments = PROTOCOLS[spec.protocol].deal(deal)
        self._pixels: dict[int, Array] = {}
        self._pool_digest = hashlib.sha256(np.ascontiguousarray(self.pool).tobytes()).hexdigest()[:16]

    def __len__(self) -> int:
        return sum(len(segment) for segment in self.segments)

    def batches(self) -> Iterator[LabelledBatch]:
        """Batches one after the other; the last of a segment may be short."""
        left = len(self) if self.spec.take is None else self.spec.take
        for segment in self.segments:
            for start in range(0, len(segment), self.spec.batch):
                if left <= 0:
                    return
                domains, chosen = segment[start : start + self.spec.batch].T
                left -= len(chosen)
                yield LabelledBatch(self.gather(domains, chosen), self.labels[chosen], domains, chosen)

    def gather(self, domains: Array, chosen: Array) -> Array:
        """Images [B, ...] float32 as the model takes them."""
        raw = np.empty((len(chosen), *self.pool.shape[1:]), np.uint8)
        for domain in np.unique(domains):
            here = domains == domain
            raw[here] = self.pixels(int(domain))[chosen[here]]
        mean, std = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (self.spec.mean, self.spec.std))
        return np.asarray((raw.astype(np.float32) / 255 - mean) / std)

    def pixels(self, domain: int) -> Array:
        """Images of one domain, uint8 [N, ...]."""
        if domain not in self._pixels:
            name = self.spec.domains[domain]
            path = self._cache / f"{self.digest(domain)}.npy"
            as_it_is = name == CLEAN or self.spec.given
            self._pixels[domain] = self.pool if as_it_is else kept(path, lambda: self._corrupted(name))
        return self._pixels[domain]

    def digest(self, domain: int) -> str:
        """Name of the pixels of one domain, for caches."""
        name = "given" if self.spec.given else self.spec.domains[domain]
        return f"{self._pool_digest}-{name}-{self.spec.severity}"

    def _corrupted(self, name: str) -> Array:
        parts = []
        for i, start in enumerate(range(0, len(self.pool), CHUNK)):
            x = torch.from_numpy(self.pool[start : start + CHUNK]).float() / 255
            y = corruptions.corrupt(x, name, self.spec.severity, seed=i, constants="cifar")
            parts.append((y * 255).round().to(torch.uint8).numpy())
        return np.concatenate(parts)


def kept(path: Path, make: Callable[[], Array]) -> Array:
    """Read an array from its file; make both if they are missing. Two processes may do so at once."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        np.save(file, make())
        write_atomic(path, file.getvalue())
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


Pool = tuple[Array, Array, dict[str, Array]]  # images, labels, images of each domain where not all


def _pool(spec: StreamSpec) -> Pool:
    """Images from the beginning of the file, some of unknown classes for the protocol `unknown`."""
    data, count = spec.data, spec.images
    known = _read(data)
    strange = round(UNKNOWN_SHARE * count) if spec.protocol == "unknown" else 0
    inputs, labels = known.inputs[: count - strange], known.labels[: count - strange]
    if count > len(known.inputs):
        raise ConfigError(f"--images {count}: {data} holds {len(known.inputs)}")
    if not strange:
        return inputs, labels, {}
    others = _like(subjects.strangers(inputs.shape[1:]).inputs[:strange], inputs.shape[1:])
    return np.concatenate([inputs, others]), np.concatenate([labels, np.full(len(others), UNKNOWN)]), {}


def _given(spec: StreamSpec) -> Pool:
    """Images of the domains that the file names, the first `images` of each."""
    if spec.protocol == "unknown":
        raise ConfigError(f"--protocol unknown: {spec.data} names domains; it needs --corruptions")
    known, domain = _read(spec.data), images.read_domains(spec.data)
    assert domain is not None
    rows = {name: np.flatnonzero(domain == name)[: spec.images] for name in spec.corruptions}
    ends = np.cumsum([len(mine) for mine in rows.values()])
    members = {n: np.arange(end - len(rows[n]), end) for n, end in zip(rows, ends.tolist(), strict=True)}
    chosen = np.concatenate(list(rows.values()))
    return known.inputs[chosen], known.labels[chosen], members


@functools.cache
def _read(path: Path) -> images.LabelledImages:
    return images.read_npz(path)


def _like(inputs: Array, shape: tuple[int, ...]) -> Array:
    """Other images in this shape: grey, resized, the grey in every channel."""
    x = torch.from_numpy(inputs).float().mean(1, keepdim=True)
    x = F.interpolate(x, size=shape[1:], mode="bilinear", align_corners=False)
    return x.round().to(torch.uint8).expand(-1, shape[0], -1, -1).numpy()
