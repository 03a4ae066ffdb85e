"""Timing of a round, as a multiple of one plain forward of the same batch and of the peer's round."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import torch

from tta_agent.bench import peers
from tta_agent.bench.cost import Clock
from tta_agent.bench.lagged import classes
from tta_agent.bench.protocol import ContenderRun, own_copy
from tta_agent.bench.streams import Stream
from tta_agent.core.errors import CannotAdapt
from tta_agent.core.types import Array
from tta_agent.models.loader import DeployedModel
from tta_agent.settings.schema import Settings

WARM, LEAST = 2, 4  # rounds untimed, and timed at least


def measure(
    settings: Settings, source: DeployedModel, stream: Stream, peer: str | None, limit_s: float
) -> dict[str, Any]:
    """Time a contender, a plain forward and its peer on the same batches, in turn.

    Args:
        settings: of the contender.
        source: the deployed model; it is copied.
        stream: batches to learn from, again and again.
        peer: name of the peer to time beside it, or None.
        limit_s: seconds after which no further batch is begun, once there are enough.

    Raises:
        CannotAdapt: the method has nothing to adapt in this model.
    """
    torch.manual_seed(stream.spec.order)
    ContenderRun(settings, own_copy(source))  # what is done once, and kept, is not a part of building
    began_s = time.perf_counter()
    contender = ContenderRun(settings, own_copy(source))
    build_s = time.perf_counter() - began_s
    theirs = _peer(peer, source)
    actions = {
        "forward": lambda x: classes(source.module, x, source.device),
        "step": contender.answer,
        **({"peer": theirs} if theirs else {}),
    }
    clock = Clock(actions, source.device)
    clock.run(_whole(stream), WARM, LEAST, limit_s)
    forward_s, step_s = clock.median("forward"), clock.median("step")
    found = {
        "forward_s": forward_s, "step_s": step_s, "step_over_forward": step_s / forward_s, "build_s": build_s,
    }  # fmt: skip
    if not theirs:
        return found
    theirs_s = clock.median("peer")
    return {
        **found,
        "peer": {"step_over_forward": theirs_s / forward_s, "ours_over_theirs": step_s / theirs_s},
    }


def _peer(name: str | None, source: DeployedModel) -> peers.Peer | None:
    """Peer to time, if any: it may have nothing to adapt where our method has (GroupNorm)."""
    try:
        return peers.make(name, own_copy(source)) if name else None
    except CannotAdapt:
        return None


def _whole(stream: Stream) -> Iterator[Array]:
    """Its batches without the short ones, again and again."""
    size = min(stream.spec.batch, len(stream))
    return (batch.x for _ in cycle([0]) for batch in stream.batches() if len(batch.x) == size)
